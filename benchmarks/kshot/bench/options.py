"""The options that several benchmarks share, declared once, and checks of options' values."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import torch

from kshot.bench.environment import environment
from kshot.bench.report import Report
from kshot.bundle import BatchNormMode, Limits
from kshot.client import ModelCapabilities
from kshot.client.commands.options import json_option, print_document
from kshot.trainer.commands.options import choose_device, device_option
from kshot.trainer.output.plotting import figure_of, write_png

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from matplotlib.figure import Figure

COUNT = click.IntRange(min=1)
BATCH_NORM_MODE = click.Choice([mode.value for mode in BatchNormMode])
_MAX_CALLERS = 10_000

Kind = TypeVar("Kind", bound="DataclassInstance")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

option = functools.partial(click.option, show_default=True)
_OPTIONS: Mapping[str, Decorator] = {
    "bundle_name": option(
        "--bundle",
        "bundle_name",
        default="omniglot",
        metavar="PATH",
        help="Folder of a bundle, or the name of a built-in bundle.",
    ),
    "way": option("--way", type=click.IntRange(min=2), default=5),
    "shot": option("--shot", type=COUNT, default=1),
    "batch_norm_mode": option(
        "--batch-norm-mode", type=BATCH_NORM_MODE, help="[default: the model's]"
    ),
    "rounds": option(
        "--rounds", type=COUNT, default=20, help="Samples of each contender; use at least 20."
    ),
    "device": device_option,
    "threads": option("--threads", type=COUNT, default=1, help="CPU threads of each contender."),
    "compiled": option(
        "--compile/--no-compile",
        "compiled",
        default=None,
        help="Compile kshot's inner step. [default: where that works]",
    ),
    "jax": option(
        "--jax/--no-jax",
        default=None,
        help="Measure JAX too. [default: where it is installed, on a CPU]",
    ),
    "as_json": json_option,
    "plot": option(
        "--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Write a plot."
    ),
}


@dataclass(frozen=True)
class Shared:
    """Values of the shared options; a field whose option a command lacks keeps its default."""

    bundle_name: str = "omniglot"
    way: int = 5
    shot: int = 1
    batch_norm_mode: str | None = None
    rounds: int = 20
    device: str = "auto"
    threads: int = 1
    compiled: bool | None = None
    jax: bool | None = None
    as_json: bool = False
    plot: Path | None = None

    def choose_device(self) -> torch.device:
        """Choose the device, reproducible, with `threads` CPU threads.

        Raises `UsageError` when a GPU is asked for and torch sees none.
        """
        device = choose_device(self.device)
        torch.set_num_threads(self.threads)
        return device

    def choose_jax(self, device: torch.device) -> bool:
        """Decide whether JAX is measured, and set its threads before it is imported.

        Raises `UsageError` when it is asked for and cannot be measured.
        """
        installed = find_spec("jax") is not None
        if self.jax and not installed:
            raise click.UsageError("--jax needs 'jax', which is not installed: pip install jax")
        if self.jax and device.type != "cpu":
            raise click.UsageError(f"--jax: expected device cpu, got {device.type}")
        joins = installed and device.type == "cpu" if self.jax is None else self.jax
        if joins:
            limit_jax_threads(self.threads)
        return joins

    def document(
        self, device: torch.device, figures: Mapping[str, object], options: Mapping[str, object]
    ) -> dict[str, object]:
        """Return a benchmark's figures for JSON, with its options and environment."""
        return {
            "device": device.type,
            **figures,
            "rounds": self.rounds,
            "options": {**options, "threads": self.threads},
            "environment": environment(),
        }

    def publish(
        self,
        document: Mapping[str, object],
        report: Report,
        draw: Callable[[Figure], None] | None = None,
    ) -> None:
        """Print the document or the report, then draw the plot where one was asked for."""
        if self.as_json:
            print_document(document)
        else:
            report.print()
        if self.plot is not None and draw is not None:
            write_png(self.plot, figure_of(draw))


def gathered(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """Make a dataclass of the options' values that it has fields for."""
    names = {field.name for field in fields(kind)} & set(given)
    return kind(**{name: given[name] for name in names})


def shared_options(*names: str) -> Decorator:
    """Add `--device`, `--json` and other shared options; a command gathers them as `Shared`."""
    options = [_OPTIONS[name] for name in reversed((*names, "device", "as_json"))]
    return lambda command: functools.reduce(lambda made, option: option(made), options, command)


def limit_jax_threads(count: int) -> None:
    """Set JAX's CPU threads; this takes effect before JAX's first computation only."""
    os.environ["NPROC"] = str(count)  # sizes XLA's pools
    flag = f"--xla_cpu_multi_thread_eigen={str(count > 1).lower()}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def check_limits(
    limits: Limits | ModelCapabilities,
    owner: str,
    *,
    way: int,
    shot: int,
    step_count: int = 0,
    images: int = 0,
) -> None:
    """Check a workload against the limits of a bundle or a served model; raises `UsageError`."""
    for option_name, value, most in (
        ("--way", way, limits.max_way),
        ("--way times --shot", way * shot, limits.max_support_count),
        ("--step-count", step_count, limits.max_step_count),
        ("--images", images, limits.max_query_count),
    ):
        if value > most:
            raise click.UsageError(
                f"{option_name}: expected at most {most}, the limit of {owner}, got {value}"
            )


def check_choice(name: str, value: object, allowed: Sequence[object], owner: str) -> None:
    """Check an option's value against those that a model allows; raises `UsageError`."""
    if value not in allowed:
        choices = ", ".join(map(str, allowed))
        raise click.UsageError(f"{name}: expected one of {choices} ({owner}), got {value}")


def read_positive(
    _context: click.Context, _option: click.Parameter, value: float | None
) -> float | None:
    """Return a finite number above 0, or None; raises `BadParameter` for others."""
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"expected a number above 0, got {value:g}")
    return value


def read_counts(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read integers between commas, sorted and without duplicates; raises `BadParameter`."""
    words = [word.strip() for word in value.split(",")]
    fit = (word.isascii() and word.isdigit() and 1 <= int(word) <= _MAX_CALLERS for word in words)
    if not all(fit):
        raise click.BadParameter(
            f"expected integers from 1 to {_MAX_CALLERS} between commas, such as 1,8,64, "
            f"got {value}"
        )
    return tuple(sorted({int(word) for word in words}))
