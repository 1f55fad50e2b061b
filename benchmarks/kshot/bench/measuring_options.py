"""The options of the scripts that measure what a page of the documentation tells."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kshot.bench.refusals import WrongUse
from kshot.trainer.commands.options import device_option

__all__ = ["Measuring", "measuring_options"]

Command = Callable[..., None]


@dataclass(frozen=True)
class Measuring:
    """What to measure, on what, and where it is kept.

    ``only`` are names between commas, none for all. What is None is a default. With ``page`` the
    page is written from what is kept, and nothing measured.
    """

    only: str
    data_folder: Path | None
    task_count: int | None
    device: str
    compiled: bool | None
    again: bool
    out: Path
    page: bool

    @property
    def names(self) -> list[str]:
        """Return what is named."""
        return [name.strip() for name in self.only.split(",") if name.strip()]


def measuring_options(out: Path, only: str, out_help: str) -> Callable[[Command], Command]:
    """Return a decorator that gives a command these options, as its first argument.

    ``out`` is where measurements are kept unless another place is named; ``only`` and ``out_help``
    say what can be named.
    """
    options = (
        click.option("--only", default="", help=only),
        click.option("--data", "data_folder", type=click.Path(path_type=Path), envvar="KSHOT_DATA"),
        click.option(
            "--tasks", "task_count", type=click.IntRange(min=1), help="[default: its own]"
        ),
        device_option,
        click.option(
            "--compile/--no-compile",
            "compiled",
            default=None,
            help="Compile the inner steps, as the server does.  [default: on a CPU]",
        ),
        click.option("--again", is_flag=True, help="Measure what was measured before, too."),
        click.option("--out", default=out, type=click.Path(path_type=Path), help=out_help),
        click.option("--page", is_flag=True, help="Write the page alone, from what is kept."),
    )

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def collected(**given: Any) -> None:  # noqa: ANN401 -- the options' own types
            own = {name: given.pop(name) for name in Measuring.__dataclass_fields__}
            if own["page"] and not own["out"].exists():
                raise WrongUse(f"--out is {own['out']}, which is not there: --page writes from it")
            command(Measuring(**own), **given)

        for option in reversed(options):
            collected = option(collected)
        return collected

    return decorate
