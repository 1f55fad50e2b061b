"""The options of `kshot calibrate`, and what they ask for together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner
from kshot.trainer.bundling.calibrated_copy import Defaults
from kshot.trainer.bundling.calibration import CalibrationTasks
from kshot.trainer.commands.evaluation_options import MAX_STEPS, MAX_TASKS, choice
from kshot.trainer.commands.options import data_option, device_option

__all__ = ["CalibrateOptions", "calibrate_options"]

Command = TypeVar("Command", bound=Callable[..., None])

MAX_SHOT = 1000
_DEFAULT = "[default: the bundle's]"

_OPTIONS = (
    click.argument("bundle_name", metavar="BUNDLE"),
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Folder for the copy, DIR/NAME/VERSION.",
    ),
    data_option,
    click.option(
        "--split",
        "part",
        type=click.Choice(["val", "train"]),
        default="val",
        show_default=True,
        help="Part of the bundle's data that temperatures are fitted on.",
    ),
    click.option(
        "--way",
        type=click.IntRange(min=2),
        help="Classes of a task.  [default: as the bundle's table]",
    ),
    click.option(
        "--shots",
        default="1,2,5",
        show_default=True,
        metavar="LIST",
        help="Examples per class, a temperature for each.",
    ),
    click.option("--tasks", type=click.IntRange(1, MAX_TASKS), default=1000, show_default=True),
    click.option(
        "--queries", type=click.IntRange(min=1), default=5, show_default=True, help="Per class."
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--step-count", type=click.IntRange(1, MAX_STEPS), help=_DEFAULT),
    click.option("--batch-norm-mode", type=choice(BatchNormMode), help=_DEFAULT),
    click.option("--preconditioner", type=choice(Preconditioner), help=_DEFAULT),
    click.option("--head", type=choice(Head), help=_DEFAULT),
    device_option,
    click.option(
        "--compile/--no-compile",
        "compiled",
        default=None,
        help="Compile the inner step.  [default: on a CPU, where that works and pays]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)


def calibrate_options(function: Command) -> Command:
    """Give a command the options of ``CalibrateOptions``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@dataclass(frozen=True)
class CalibrateOptions:
    """The options as they were given; None is not given."""

    bundle_name: str
    out: Path
    data_folder: Path | None
    part: str
    way: int | None
    shots: str
    tasks: int
    queries: int
    seed: int
    step_count: int | None
    batch_norm_mode: str | None
    preconditioner: str | None
    head: str | None
    device: str
    compiled: bool | None
    as_json: bool

    def defaults(self) -> Defaults:
        """Return what the copy's defaults are to be."""
        return Defaults(
            self.step_count,
            BatchNormMode(self.batch_norm_mode) if self.batch_norm_mode else None,
            Preconditioner(self.preconditioner) if self.preconditioner else None,
            Head(self.head) if self.head else None,
        )

    def calibration_tasks(self, manifest: Manifest) -> CalibrationTasks:
        """Return the tasks that were asked for, of the way of the bundle's table where none is.

        Raises ``UsageError`` for a list that is none, and for a way that the bundle does not allow.
        """
        most = manifest.limits.max_way
        if self.way is not None and self.way > most:
            raise click.UsageError(
                f"--way is {self.way}, wanted at most {most}, the limit of {self.bundle_name}"
            )
        way = self.way or manifest.usual_way
        words = [word.strip() for word in self.shots.split(",")]
        digits = len(str(MAX_SHOT))
        if not all(word.isascii() and word.isdigit() and len(word) <= digits for word in words):
            raise click.UsageError(f"--shots is {self.shots!r}, wanted numbers as 1,5")
        shots = sorted({int(word) for word in words})
        if not 1 <= shots[0] <= shots[-1] <= MAX_SHOT:
            raise click.UsageError(f"--shots is {self.shots!r}, wanted 1 to {MAX_SHOT} each")
        return CalibrationTasks(self.part, way, tuple(shots), self.tasks, self.queries, self.seed)
