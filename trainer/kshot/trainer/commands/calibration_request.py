"""The options of `kshot calibrate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner
from kshot.trainer.bundling.calibrated_copy import with_defaults
from kshot.trainer.commands.options import (
    BUNDLES,
    COMPILED,
    DATA,
    DEVICE,
    DIRECTORY,
    MAX_STEPS,
    MAX_TASKS,
)
from kshot.trainer.commands.requests import argument, numbers, option
from kshot.trainer.evaluate.settings import EvaluationSettings

MAX_SHOT = 1000


@dataclass(frozen=True)
class CalibrateRequest:
    """The options as they were given; None is not given."""

    bundle_name: str = argument("BUNDLE")
    out: Path = option(
        "Folder for the copy, DIR/NAME/VERSION.", required=True, type=DIRECTORY, metavar="DIR"
    )
    data_folder: Path | None = option(flag="--data", **DATA)
    part: Literal["val", "train"] = option(
        "Part of the bundle's data that temperatures are fitted on.", "--split", default="val"
    )
    way: int | None = option(
        "Classes per task.  [default: as in the bundle's table]", type=click.IntRange(2)
    )
    shots: tuple[int, ...] = option(
        "Examples per class; a temperature is fitted for each.",
        type=numbers(1, MAX_SHOT),
        default="1,2,5",
    )
    task_count: int = option(flag="--tasks", type=click.IntRange(1, MAX_TASKS), default=1000)
    query_count: int = option("Per class.", "--queries", type=click.IntRange(1), default=5)
    seed: int = option(type=click.IntRange(0), default=0)
    step_count: int | None = option(BUNDLES, type=click.IntRange(1, MAX_STEPS))
    batch_norm_mode: BatchNormMode | None = option(BUNDLES)
    preconditioner: Preconditioner | None = option(BUNDLES)
    head: Head | None = option(BUNDLES)
    device: str = option(**DEVICE)
    compiled: bool | None = option(flag="--compile/--no-compile", **COMPILED)
    as_json: bool = option("Print one JSON document.", "--json")

    def with_defaults(self, manifest: Manifest) -> Manifest:
        """Return the manifest of the copy: its defaults are those that were asked for."""
        return with_defaults(
            manifest, self.step_count, self.batch_norm_mode, self.preconditioner, self.head
        )

    def settings(self, manifest: Manifest) -> EvaluationSettings:
        """Return the tasks that were asked for; the default way is that of the bundle's table."""
        way = self.way or manifest.usual_way
        counts = self.shots[0], self.query_count, self.task_count
        return EvaluationSettings(way, *counts, manifest.batch_norm.default, seed=self.seed)
