"""The options that several benchmarks share, declared once, and checks of options' values."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

from kshot.bench.plot import write_plot
from kshot.bench.report import Report, print_document
from kshot.bundle import BatchNormMode, Bundle, BundleError, load_bundle, locate_bundle
from kshot.trainer.commands.options import choose_device as choose_reproducible_device
from kshot.trainer.commands.options import device_option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNT = click.IntRange(min=1)
_MAX_CALLERS = 10_000

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_OPTIONS: Mapping[str, Decorator] = {
    "bundle_name": click.option(
        "--bundle",
        "bundle_name",
        default="omniglot",
        show_default=True,
        metavar="PATH",
        help="Folder of a bundle, or the name of a built-in bundle.",
    ),
    "way": click.option("--way", type=click.IntRange(min=2), default=5, show_default=True),
    "shot": click.option("--shot", type=COUNT, default=1, show_default=True),
    "batch_norm_mode": click.option(
        "--batch-norm-mode", type=click.Choice([mode.value for mode in BatchNormMode])
    ),
    "rounds": click.option(
        "--rounds",
        type=COUNT,
        default=20,
        show_default=True,
        help="Samples of each contender; use at least 20.",
    ),
    "device": device_option,
    "threads": click.option(
        "--threads",
        type=COUNT,
        default=1,
        show_default=True,
        help="CPU threads of each contender.",
    ),
    "compiled": click.option(
        "--compile/--no-compile",
        "compiled",
        default=None,
        help="Compile kshot's inner step. [default: where that works]",
    ),
    "jax": click.option(
        "--jax/--no-jax",
        default=None,
        help="Measure JAX too. [default: where it is installed, on a CPU]",
    ),
    "as_json": click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
    "plot": click.option(
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
        """Choose the device, reproducible, with `threads` CPU threads."""
        return choose_device(self.device, self.threads)

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
            write_plot(self.plot, draw)


def shared_options(*names: str) -> Decorator:
    """Add shared options to a command, which takes their values as one argument `shared`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_shared(**values: object) -> None:
            shared: dict[str, Any] = {
                field.name: values.pop(field.name)
                for field in fields(Shared)
                if field.name in names
            }
            command(shared=Shared(**shared), **values)

        for name in reversed(names):
            _OPTIONS[name](with_shared)
        return with_shared

    return decorate


def open_bundle(name: str) -> Bundle:
    """Open a folder's bundle or a built-in one.

    Raises `UsageError` when it is neither, `BundleError` when the folder holds no sound bundle.
    """
    try:
        folder = locate_bundle(name)
    except BundleError as error:
        raise click.UsageError(str(error)) from error
    return load_bundle(folder)


def choose_device(name: str, threads: int) -> torch.device:
    """Choose the device, reproducible, with `threads` CPU threads.

    Raises `UsageError` when a GPU is asked for and torch sees none.
    """
    device = choose_reproducible_device(name)
    torch.set_num_threads(threads)
    return device


def limit_jax_threads(count: int) -> None:
    """Set JAX's CPU threads; this takes effect before JAX's first computation only."""
    os.environ["NPROC"] = str(count)  # sizes XLA's pools
    flag = f"--xla_cpu_multi_thread_eigen={str(count > 1).lower()}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def check_limits(owner: str, *limits: tuple[str, int, int]) -> None:
    """Check (option, value, maximum) against what a model allows; raises `UsageError`."""
    for option, value, most in limits:
        if value > most:
            raise click.UsageError(
                f"{option}: expected at most {most}, the limit of {owner}, got {value}"
            )


def check_choice(option: str, value: object, allowed: Iterable[object], owner: str) -> None:
    """Check an option's value against those that a model allows; raises `UsageError`."""
    allowed = list(allowed)
    if value not in allowed:
        choices = ", ".join(map(str, allowed))
        raise click.UsageError(f"{option}: expected one of {choices} ({owner}), got {value}")


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
