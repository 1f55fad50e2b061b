"""The command line that all figures share."""

import math
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from kshot.trainer.commands.follower import Follower
from kshot.trainer.commands.options import choose_device, data_option, device_option
from kshot.trainer.errors import RecipeError, TrainerError
from kshot.trainer.output.plotting import check_matplotlib
from studies.common.results import provenance, write_result
from studies.figures.comparison import figure_result
from studies.figures.figure import Figure, RunSettings, plan
from studies.figures.panels import plot
from studies.figures.training import run_figure

FOLDER, MOST_FACTOR = click.Path(path_type=Path), 1e6
OUT_HELP = "Folder for the result, NAME.json and NAME.png, and a folder for each training."
SCALE_HELP = "Multiply the meta-iterations of all arms.  [default: 1]"
STEP_SCALE_HELP = "Multiply the outer step sizes of all arms.  [default: 1]"
SEEDS_HELP = "Seeds per arm; all arms share initial weights.  [default: 1]"
TASKS_HELP = "Number of tasks that the arms are compared on.  [default: the figure's]"
ARMS_HELP = "Train only these arms; a line's name selects its whole sweep.  [default: all]"
SET_HELP = "Set a key in the recipes of all arms, as inner.learning_rate=0.01; may be repeated."
RESUME_HELP = "Resume the run in DIR; finished arms are kept."
COMPILE_HELP = "Compile the inner steps.  [default: where that works]"


def _factor(_context: click.Context, _option: click.Parameter, value: float) -> float:
    """Return a factor; raises `BadParameter` for others, nan among them, which ranges let pass."""
    if not 0 < value <= MOST_FACTOR:
        raise click.BadParameter(
            f"expected a number above 0 and at most {MOST_FACTOR:g}, got {value:g}"
        )
    return value


def figure_command(figure: Figure) -> click.Command:
    """Return the command that trains a figure's arms and compares them on the same tasks."""

    @click.command(figure.name, help=f"{figure.title}: train the arms and compare them.")
    @click.option("--out", required=True, type=FOLDER, metavar="DIR", help=OUT_HELP)
    @data_option
    @click.option("--scale", type=float, callback=_factor, default=1.0, help=SCALE_HELP)
    @click.option("--step-scale", type=float, callback=_factor, default=1.0, help=STEP_SCALE_HELP)
    @click.option("--seeds", "seed_count", type=click.IntRange(min=1), default=1, help=SEEDS_HELP)
    @click.option("--tasks", "task_count", type=click.IntRange(min=2), help=TASKS_HELP)
    @click.option("--arms", metavar="NAME,...", default="", help=ARMS_HELP)
    @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
    @click.option("--resume", is_flag=True, help=RESUME_HELP)
    @device_option
    @click.option("--compile/--no-compile", "compiled", default=None, help=COMPILE_HELP)
    def run(arms: str, resume: bool, device: str, **given: Any) -> None:  # noqa: ANN401 -- the options' types
        names = [name.strip() for name in arms.split(",") if name.strip()]
        try:
            _run(figure, RunSettings(arms=names, device=choose_device(device), **given), resume)
        except RecipeError as error:
            raise click.UsageError(str(error)) from error
        except TrainerError as error:
            raise click.ClickException(str(error)) from error

    return run


def _run(figure: Figure, settings: RunSettings, resume: bool) -> None:
    check_matplotlib()
    out, path = settings.out, settings.out / f"{figure.name}.json"
    seeds = [job.recipe.outer.seed for job in plan(figure, settings)[0][1]]
    if out.exists() and not (out.is_dir() and (resume or not any(out.iterdir()))):
        raise click.UsageError(
            f"--out: expected an empty or new folder, got {out}; "
            "add --resume to resume the run in it"
        )
    made_with = provenance(_command(figure), seeds=seeds, device=settings.device)
    with Follower(out, "the same command with --resume") as follower:
        outcomes = run_figure(figure, settings, follower.show_training, follower.say)
    result = figure_result(figure, settings, outcomes, made_with)
    write_result(path, result)
    plot(path.with_suffix(".png"), figure, outcomes, made_with.command)
    unit, name = (100, " points") if figure.part else (1, "")
    for claim in result.more["orderings"]:
        for measured, found in claim["found"].items():
            holds = "holds" if found["holds"] else "does not hold"
            # None is what was not finite.
            mean, ci95 = (
                unit * (math.nan if found[key] is None else found[key]) for key in ("mean", "ci95")
            )
            click.echo(f"{claim['text']}: {holds} ({measured}: {mean:+.3g} ± {ci95:.2g}{name})")
    click.echo(f"{path}\n{path.with_suffix('.png')}")


def _command(figure: Figure) -> str:
    """Return the command that runs this again, with DATA and OUT for the folders."""
    given, folders = sys.argv[1:], {"--data": "DATA", "--out": "OUT"}
    words = [folders.get(before, word) for before, word in zip(["", *given], given, strict=False)]
    shown = [word for word in words if word != "--resume"]
    return shlex.join(["python", f"studies/figures/{figure.name}.py", *shown])
