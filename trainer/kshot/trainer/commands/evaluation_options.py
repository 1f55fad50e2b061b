"""The options of `kshot evaluate`."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import click

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope
from kshot.trainer.commands.evaluation_request import PROTOCOLS
from kshot.trainer.commands.options import data_option, device_option
from kshot.trainer.evaluate.baselines import Baseline

__all__ = ["MAX_STEPS", "MAX_TASKS", "VARIABLE", "choice", "evaluate_options"]

Command = TypeVar("Command", bound=Callable[..., None])

# Beyond what anybody waits for, and within what memory holds.
MAX_STEPS, MAX_BATCH, MAX_TASKS = 100_000, 1_000, 1_000_000
_Count = click.IntRange(min=1)
_DEFAULT = "[default: the bundle's]"


def choice(kind: type[StrEnum]) -> click.Choice[str]:
    """Return the type of an option whose words are an enumeration's."""
    # By value: given the members, newer releases of click would ask for their names.
    return click.Choice([member.value for member in kind])


# What may differ between two variants that solve the same tasks, by the option's name.
VARIABLE: Mapping[str, click.ParamType[Any]] = {
    "batch-norm-mode": choice(BatchNormMode),
    "step-count": click.IntRange(0, MAX_STEPS),
    "batch-size": click.IntRange(1, MAX_BATCH),
    "learning-rate": click.FloatRange(min=0, min_open=True),
    "preconditioner": choice(Preconditioner),
    "head": choice(Head),
    "scope": choice(Scope),
    "baseline": choice(Baseline),
    "calibrated": click.BOOL,
    "wrong-labels": click.FloatRange(0, 1),
    "imbalance": click.BOOL,
}

_OPTIONS = (
    click.argument("bundle_name", metavar="BUNDLE"),
    data_option,
    click.option(
        "--split",
        "part",
        type=click.Choice(["test", "val", "train"]),
        default="test",
        show_default=True,
        help="Part of the data set.",
    ),
    click.option(
        "--dataset", metavar="NAME", help="Another data set than the bundle's, as digits."
    ),
    click.option("--dataset-split", metavar="NAME", help="The split of --dataset."),
    click.option("--dataset-folder", metavar="DIR", help="With --dataset folder: below --data."),
    click.option(
        "--protocol",
        type=click.Choice(list(PROTOCOLS)),
        help="Tasks x queries per class, of the two standards.",
    ),
    click.option("--way", type=click.IntRange(min=2), help=_DEFAULT),
    click.option("--shot", type=_Count, help="[default: 1]"),
    click.option("--queries", type=_Count, help="Per class.  [default: 1]"),
    click.option("--tasks", type=click.IntRange(1, MAX_TASKS), help="[default: 1000]"),
    click.option("--seed", type=click.IntRange(min=0), help="[default: 0]"),
    click.option(
        "--episodes",
        "episode_path",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Take the tasks from FILE; where it is missing, draw them and write it.",
    ),
    click.option("--batch-norm-mode", type=choice(BatchNormMode), help=_DEFAULT),
    click.option("--step-count", type=VARIABLE["step-count"], help=_DEFAULT),
    click.option("--batch-size", type=VARIABLE["batch-size"], help=_DEFAULT),
    click.option("--learning-rate", type=VARIABLE["learning-rate"], help=_DEFAULT),
    click.option("--preconditioner", type=choice(Preconditioner), help=_DEFAULT),
    click.option("--head", type=choice(Head), help=_DEFAULT),
    click.option("--scope", type=choice(Scope), help=_DEFAULT),
    click.option(
        "--baseline",
        type=choice(Baseline),
        help="nil: cosine to the support, nothing adapted; anil: the head alone; prototype: class "
        "means, no step.",
    ),
    click.option(
        "--calibrated/--no-calibrated",
        default=None,
        help="Divide logits by the bundle's temperatures, as service does.  [default: where it has "
        "any]",
    ),
    click.option(
        "--wrong-labels",
        type=VARIABLE["wrong-labels"],
        default=0.0,
        metavar="SHARE",
        help="Exchange this share of the support labels for wrong ones.",
    ),
    click.option("--imbalance", is_flag=True, help="1 to 2 shot - 1 support images per class."),
    click.option(
        "--unknown", is_flag=True, help="Score as many queries of unknown classes: AUROC."
    ),
    click.option(
        "--compare",
        "compared",
        metavar="BUNDLE",
        help="Solve the same tasks with this bundle; print the paired difference.",
    ),
    click.option(
        "--versus",
        multiple=True,
        metavar="OPTION=VALUE",
        help="... or with this option otherwise, as step-count=0; may be repeated.",
    ),
    click.option(
        "--sweep",
        "sweep_folder",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Write the table of all variants to DIR, as JSON, Markdown and PNG.",
    ),
    click.option("--step-counts", metavar="LIST", help="Of --sweep.  [default: 0,1,2,5,10,20,50]"),
    click.option("--preconditioners", metavar="LIST", help="Of --sweep.  [default: all allowed]"),
    click.option("--heads", metavar="LIST", help="Of --sweep.  [default: all allowed]"),
    click.option("--scopes", metavar="LIST", help=f"Of --sweep.  {_DEFAULT}"),
    click.option("--batch-norm-modes", metavar="LIST", help="Of --sweep.  [default: all allowed]"),
    device_option,
    click.option(
        "--compile/--no-compile",
        "compiled",
        default=None,
        help="Compile the inner step.  [default: on a CPU, where that works and pays]",
    ),
    click.option("--per-task", is_flag=True, help="With --json: the right answers of each task."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)


def evaluate_options(function: Command) -> Command:
    """Give a command the options of ``EvaluateOptions``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
