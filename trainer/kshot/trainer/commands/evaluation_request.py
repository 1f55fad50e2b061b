"""The options of `kshot evaluate`, and what they ask for together."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.trainer.commands.options import (
    BUNDLES,
    COMPILED,
    DATA,
    DEVICE,
    DIRECTORY,
    MAX_STEPS,
    MAX_TASKS,
)
from kshot.trainer.commands.requests import argument, numbers, option, parameters
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import Axes
from kshot.trainer.tasks.episode_file import TaskShape
from kshot.trainer.tasks.support_flaws import SupportFlaws

# Tasks x queries per class of the two standards: the Reptile paper's, and that of MAML++,
# LibFewShot and Meta-Dataset.
PROTOCOLS = {"10000x1": (10_000, 1), "600x15": (600, 15)}

_INNER = ("step_count", "batch_size", "learning_rate", "preconditioner", "head", "scope")
# What each baseline decides itself.
_DECIDED = {
    Baseline.NIL: (*_INNER, "calibrated"),
    Baseline.PROTOTYPE: _INNER,
    Baseline.ANIL: ("scope",),
}
# The lists of a sweep: each axis has an option of its name.
_LISTS = tuple(axis.name for axis in fields(Axes))
# What a sweep has lists for, or does not do.
_NOT_SWEPT = (
    "step_count",
    "preconditioner",
    "head",
    "scope",
    "batch_norm_mode",
    "baseline",
    "compared",
    "versus",
)
# What may differ between two variants that solve the same tasks.
_VARIABLE = (
    "batch_norm_mode",
    *_INNER,
    "baseline",
    "calibrated",
    "wrong_labels",
    "imbalance",
    "balance_classes",
)
_ALL = "For --sweep.  [default: all that the bundle allows]"


@dataclass(frozen=True)
class EvaluateRequest:
    """The options as they were given; None is not given."""

    bundle_name: str = argument("BUNDLE")
    data_folder: Path | None = option(flag="--data", **DATA)
    part: str = option(
        "Part of the data set.",
        "--split",
        type=click.Choice(["test", "val", "train"]),
        default="test",
    )
    dataset: str | None = option(
        "Use another data set than the bundle's, as digits.", metavar="NAME"
    )
    dataset_split: str | None = option("The split of --dataset.", metavar="NAME")
    dataset_folder: str | None = option(
        "With --dataset folder: its folder below --data.", metavar="DIR"
    )
    protocol: str | None = option(
        "Use the tasks x queries per class of one of the two standards.",
        type=click.Choice(list(PROTOCOLS)),
    )
    way: int | None = option(BUNDLES, type=click.IntRange(2))
    shot: int | None = option("[default: 1]", type=click.IntRange(1))
    query_count: int | None = option(
        "Per class.  [default: 1]", "--queries", type=click.IntRange(1)
    )
    task_count: int | None = option("[default: 1000]", "--tasks", type=click.IntRange(1, MAX_TASKS))
    seed: int | None = option("[default: 0]", type=click.IntRange(0))
    episode_path: Path | None = option(
        "Take the tasks from FILE; if it is missing, draw the tasks and write it.",
        "--episodes",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
    )
    batch_norm_mode: BatchNormMode | None = option(BUNDLES)
    step_count: int | None = option(BUNDLES, type=click.IntRange(0, MAX_STEPS))
    batch_size: int | None = option(BUNDLES, type=click.IntRange(1, 1000))
    learning_rate: float | None = option(BUNDLES, type=click.FloatRange(min=0, min_open=True))
    preconditioner: Preconditioner | None = option(BUNDLES)
    head: Head | None = option(BUNDLES)
    scope: Scope | None = option(BUNDLES)
    baseline: Baseline | None = option(
        "nil: cosine to the support, nothing adapted; anil: the head alone; prototype: class "
        "means, no step."
    )
    calibrated: bool | None = option(
        "Divide logits by the bundle's temperatures, as the server does.  [default: if it has any]",
        "--calibrated/--no-calibrated",
        default=None,
    )
    wrong_labels: float = option(
        "Replace this share of the support labels by wrong ones.",
        type=click.FloatRange(0, 1),
        default=0.0,
        metavar="SHARE",
    )
    imbalance: bool = option("Use 1 to 2 shot - 1 support images per class.")
    balance_classes: bool = option("Draw all classes equally often in the inner steps.")
    unknown: bool = option("Score as many queries of unknown classes: AUROC.")
    compared: str | None = option(
        "Solve the same tasks with this bundle; print the paired difference.",
        "--compare",
        metavar="BUNDLE",
    )
    versus: tuple[str, ...] = option(
        "Compare with another value of an option, as step-count=0; may be repeated.",
        multiple=True,
        metavar="OPTION=VALUE",
    )
    sweep_folder: Path | None = option(
        "Write the table of all variants to DIR, as JSON, Markdown and PNG.",
        "--sweep",
        type=DIRECTORY,
        metavar="DIR",
    )
    step_counts: tuple[int, ...] | None = option(
        "For --sweep.  [default: 0,1,2,5,10,20,50]", type=numbers(0, MAX_STEPS)
    )
    preconditioners: tuple[Preconditioner, ...] | None = option(_ALL)
    heads: tuple[Head, ...] | None = option(_ALL)
    scopes: tuple[Scope, ...] | None = option(f"For --sweep.  {BUNDLES}")
    batch_norm_modes: tuple[BatchNormMode, ...] | None = option(_ALL)
    device: str = option(**DEVICE)
    compiled: bool | None = option(flag="--compile/--no-compile", **COMPILED)
    per_task: bool = option("With --json: add the right answers of each task.")
    as_json: bool = option("Print one JSON document.", "--json")

    def settings(self, manifest: Manifest, shape: TaskShape) -> EvaluationSettings:
        """Return the settings for a bundle on tasks of this shape."""
        return EvaluationSettings(
            **asdict(shape),
            **{
                name: getattr(self, name)
                for name in (*_INNER, "baseline", "unknown", "balance_classes")
            },
            batch_norm_mode=self.batch_norm_mode or manifest.batch_norm.default,
            flaws=SupportFlaws(self.wrong_labels, self.imbalance),
            calibrated=self.calibrated is not False,
        )

    def axes(self, manifest: Manifest) -> Axes:
        """Return what a sweep of a bundle goes over."""
        lists = {name: getattr(self, name) for name in _LISTS}
        given = {name: values for name, values in lists.items() if values is not None}
        return replace(Axes.of(manifest), **given)


def check_together(request: EvaluateRequest) -> None:
    """Raise `UsageError` for options that contradict each other or need another one."""
    if request.baseline is not None:
        beside = f"cannot be combined with --baseline {request.baseline}"
        _refuse(request, _DECIDED[request.baseline], beside)
    if request.sweep_folder is None:
        _refuse(request, _LISTS, "needs --sweep DIR")
    else:
        _refuse(request, _NOT_SWEPT, "cannot be combined with --sweep")
    if request.protocol is not None:
        _refuse(request, ("task_count", "query_count"), "cannot be combined with --protocol")
    if request.dataset is None:
        _refuse(request, ("dataset_split", "dataset_folder"), "needs --dataset")
    elif request.dataset_split is None:
        raise click.UsageError(
            f"--dataset {request.dataset} needs --dataset-split (digits has the split all)"
        )
    for name in ("learning_rate", "wrong_labels"):
        value = getattr(request, name)
        if value is not None and not math.isfinite(value):  # click's ranges let nan pass
            raise click.UsageError(f"{_flag(name)}: expected a finite number, got {value}")
    if request.per_task and not request.as_json:
        raise click.UsageError("--per-task needs --json")


def second_request(request: EvaluateRequest) -> EvaluateRequest | None:
    """Return what --compare and --versus ask for, None when neither is given.

    Options of the first variant do not apply to the second where its baseline decides them.
    Raises `UsageError` for an option that cannot differ, or a value that it does not take.
    """
    if request.compared is None and not request.versus:
        return None
    options = parameters(EvaluateRequest)
    types = {name.replace("_", "-"): options[name].type for name in _VARIABLE}
    changes: dict[str, Any] = {}
    for setting in request.versus:
        flag, equals, value = setting.partition("=")
        if not equals or flag not in types:
            raise click.UsageError(
                f"--versus: expected OPTION=VALUE with one of {', '.join(types)}, got {setting!r}"
            )
        try:
            changes[flag.replace("-", "_")] = types[flag].convert(value, None, None)
        except click.BadParameter as error:
            raise click.UsageError(f"--versus {setting}: {error.message}") from None
    if "baseline" in changes:
        changes = dict.fromkeys(_DECIDED[changes["baseline"]]) | changes
    name = request.compared or request.bundle_name
    second = replace(request, **changes, bundle_name=name, compared=None, versus=())
    check_together(second)
    return second


def _refuse(request: EvaluateRequest, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(request, name) not in (None, ()):
            raise click.UsageError(f"{_flag(name)} {why}")


def _flag(name: str) -> str:
    return parameters(EvaluateRequest)[name].opts[0]
