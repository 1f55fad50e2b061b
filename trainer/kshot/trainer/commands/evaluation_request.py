"""What the options of `kshot evaluate` ask for together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.tasks.episode_file import TaskShape
from kshot.trainer.tasks.support_flaws import SupportFlaws

__all__ = [
    "DECIDED",
    "PROTOCOLS",
    "EvaluateOptions",
    "check_allowed",
    "check_options",
    "task_shape",
]

# The two standards: the Reptile paper's, and that of MAML++, LibFewShot and Meta-Dataset.
PROTOCOLS = {"10000x1": (10_000, 1), "600x15": (600, 15)}
DEFAULT_TASKS = (1000, 1)

_INNER = ("step_count", "batch_size", "learning_rate", "preconditioner", "head", "scope")
# What each baseline says itself.
DECIDED = {
    Baseline.NIL: (*_INNER, "calibrated"),
    Baseline.PROTOTYPE: _INNER,
    Baseline.ANIL: ("scope",),
}
_LISTS = ("step_counts", "preconditioners", "heads", "scopes", "batch_norm_modes")
# What a sweep has lists for, or does not do.
_NOT_SWEPT = ("step_count", "preconditioner", "head", "scope", "batch_norm_mode", "baseline")


@dataclass(frozen=True)
class EvaluateOptions:
    """The options as they were given; None is not given."""

    bundle_name: str
    data_folder: Path | None
    part: str
    dataset: str | None
    dataset_split: str | None
    dataset_folder: str | None
    protocol: str | None
    way: int | None
    shot: int | None
    queries: int | None
    tasks: int | None
    seed: int | None
    episode_path: Path | None
    batch_norm_mode: str | None
    step_count: int | None
    batch_size: int | None
    learning_rate: float | None
    preconditioner: str | None
    head: str | None
    scope: str | None
    baseline: str | None
    calibrated: bool | None
    wrong_labels: float
    imbalance: bool
    unknown: bool
    compared: str | None
    versus: tuple[str, ...]
    sweep_folder: Path | None
    step_counts: str | None
    preconditioners: str | None
    heads: str | None
    scopes: str | None
    batch_norm_modes: str | None
    device: str
    compiled: bool | None
    per_task: bool
    as_json: bool

    def settings(self, manifest: Manifest, shape: TaskShape) -> EvaluationSettings:
        """Return the settings that a bundle's evaluation has by these options."""
        mode = self.batch_norm_mode or manifest.batch_norm.default
        return EvaluationSettings(
            way=shape.way,
            shot=shape.shot,
            query_count=shape.query_count,
            task_count=shape.task_count,
            seed=shape.seed,
            batch_norm_mode=BatchNormMode(mode),
            step_count=self.step_count,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            preconditioner=Preconditioner(self.preconditioner) if self.preconditioner else None,
            head=Head(self.head) if self.head else None,
            scope=Scope(self.scope) if self.scope else None,
            baseline=Baseline(self.baseline) if self.baseline else None,
            flaws=SupportFlaws(self.wrong_labels, self.imbalance),
            unknown=self.unknown,
            calibrated=self.calibrated is not False,
        )


def task_shape(options: EvaluateOptions, manifest: Manifest, held: TaskShape | None) -> TaskShape:
    """Return the tasks that were asked for: options, then a protocol, then the file, then defaults.

    Raises ``UsageError`` where the episode file holds others than the options name.
    """
    wanted = held or TaskShape(manifest.usual_way, 1, DEFAULT_TASKS[1], DEFAULT_TASKS[0], 0)
    named = {
        "way": options.way,
        "shot": options.shot,
        "query_count": options.queries,
        "task_count": options.tasks,
        "seed": options.seed,
    }
    if options.protocol:
        if options.tasks or options.queries:
            raise click.UsageError("--protocol names tasks and queries, leave them out beside it")
        named["task_count"], named["query_count"] = PROTOCOLS[options.protocol]
    shape = TaskShape(
        **{name: getattr(wanted, name) if value is None else value for name, value in named.items()}
    )
    if held is not None and shape != held:
        raise click.UsageError(
            f"--episodes is {options.episode_path}, which holds {_words(held)}; the other options "
            f"ask for {_words(shape)}: leave them out, or name another file"
        )
    return shape


def _words(shape: TaskShape) -> str:
    return (
        f"{shape.task_count} {shape.way}-way {shape.shot}-shot tasks with {shape.query_count} "
        f"queries per class from seed {shape.seed}"
    )


def check_options(options: EvaluateOptions) -> None:
    """Raise ``UsageError`` for options that say the same twice, or nothing together."""
    if options.baseline is not None:
        _refuse(options, DECIDED[Baseline(options.baseline)], f"--baseline {options.baseline}")
    if options.sweep_folder is not None:
        _refuse(options, (*_NOT_SWEPT, "compared", "versus"), "--sweep")
    for name in _LISTS if options.sweep_folder is None else ():
        if getattr(options, name) is not None:
            raise click.UsageError(f"--{_dashed(name)} is a list of --sweep, wanted --sweep DIR")
    if options.dataset is not None and options.dataset_split is None:
        raise click.UsageError(
            f"--dataset is {options.dataset}, wanted its --dataset-split too (digits has all)"
        )
    for name in ("dataset_split", "dataset_folder") if options.dataset is None else ():
        if getattr(options, name) is not None:
            raise click.UsageError(f"--{_dashed(name)} says more about --dataset, wanted it too")
    for name in ("learning_rate", "wrong_labels"):
        value = getattr(options, name)
        if value is not None and not math.isfinite(value):  # click's ranges let nan pass
            raise click.UsageError(f"--{_dashed(name)} is {value}, wanted a finite number")
    if options.per_task and not options.as_json:
        raise click.UsageError("--per-task adds to --json, wanted it too")


def check_allowed(options: EvaluateOptions, manifest: Manifest, bundle_name: str) -> None:
    """Raise ``UsageError`` for a choice that the bundle does not allow."""
    for name, allowed in (
        ("batch_norm_mode", manifest.batch_norm.allowed),
        ("preconditioner", manifest.inner_loop.preconditioners),
        ("head", manifest.head.allowed),
        ("scope", manifest.scope.allowed),
    ):
        chosen = getattr(options, name)
        if chosen is not None:
            check_choice(f"--{_dashed(name)}", chosen, allowed, bundle_name)


def check_choice(option: str, chosen: str, allowed: Sequence[str], bundle_name: str) -> None:
    """Raise ``UsageError`` for a word that is none of those allowed."""
    if chosen not in allowed:
        raise click.UsageError(
            f"{option} is {chosen}, wanted one that {bundle_name} allows: {', '.join(allowed)}"
        )


def _refuse(options: EvaluateOptions, names: Sequence[str], beside: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, ()):
            option = "compare" if name == "compared" else _dashed(name)
            raise click.UsageError(f"{beside} leaves no choice of --{option}, leave it out")


def _dashed(name: str) -> str:
    return name.replace("_", "-")
