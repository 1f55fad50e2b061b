"""The command line that all figures share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch

from kshot.trainer.commands.follower import Follower
from kshot.trainer.commands.options import (
    choose_data_folder,
    choose_device,
    data_option,
    device_option,
)
from kshot.trainer.errors import RecipeError, TrainerError
from kshot.trainer.output.plotting import check_matplotlib
from kshot.trainer.output.progress import Progress
from studies.common.plots import save_plot
from studies.common.results import provenance, write_result
from studies.figures.comparison import figure_result, verdicts
from studies.figures.figure import Figure
from studies.figures.panels import draw_figure, figure_size
from studies.figures.run import Outcome, RunSettings, plan, run_figure

__all__ = ["figure_command", "main"]

ABOVE_ZERO, COUNT = click.FloatRange(min=0, min_open=True), click.IntRange(min=1)
OUT_HELP = "Folder for the result, NAME.json and NAME.png, and a folder for each training."
SCALE_HELP = "Multiply the meta-iterations of all arms.  [default: 1]"
STEP_SCALE_HELP = "Multiply the outer step sizes of all arms.  [default: 1]"
SEEDS_HELP = "Seeds per arm; all arms share initial weights.  [default: 1]"
TASKS_HELP = "Number of tasks that the arms are compared on.  [default: the figure's]"
ARMS_HELP = "Train only these arms; a line's name selects its whole sweep.  [default: all]"
SET_HELP = "Set a key in the recipes of all arms, as inner.learning_rate=0.01; may be repeated."
RESUME_HELP = "Resume the run in DIR; finished arms are kept."
JOBS_HELP = "Arms to train at the same time, each in a process with one CPU thread.  [default: 1]"
COMPILE_HELP = "Compile the inner steps.  [default: where that works]"
Folder = click.Path(path_type=Path, file_okay=False)


def main(figure: Figure) -> None:
    """Run a figure's command line."""
    figure_command(figure)()


def figure_command(figure: Figure) -> click.Command:
    """Return the command that trains a figure's arms and compares them on the same tasks."""

    @click.command(figure.name, help=f"{figure.title}: train the arms and compare them.")
    @click.option("--out", required=True, type=Folder, metavar="DIR", help=OUT_HELP)
    @data_option
    @click.option("--scale", type=ABOVE_ZERO, default=1.0, help=SCALE_HELP)
    @click.option("--step-scale", type=ABOVE_ZERO, default=1.0, help=STEP_SCALE_HELP)
    @click.option("--seeds", "seed_count", type=COUNT, default=1, help=SEEDS_HELP)
    @click.option("--tasks", "task_count", type=click.IntRange(min=2), help=TASKS_HELP)
    @click.option("--arms", metavar="NAME,...", default="", help=ARMS_HELP)
    @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=SET_HELP)
    @click.option("--resume", is_flag=True, help=RESUME_HELP)
    @click.option("--jobs", "job_count", type=COUNT, default=1, help=JOBS_HELP)
    @device_option
    @click.option("--compile/--no-compile", "compiled", default=None, help=COMPILE_HELP)
    def run(arms: str, resume: bool, device: str, **options: object) -> None:
        make: Callable[..., RunSettings] = RunSettings
        names = [name.strip() for name in arms.split(",") if name.strip()]
        settings = make(arms=names, device=choose_device(device).type, **options)
        try:
            _run(figure, settings, resume)
        except TrainerError as error:
            raise click.ClickException(str(error)) from error

    return run


def _run(figure: Figure, settings: RunSettings, resume: bool) -> None:
    check_matplotlib()
    try:
        seeds = list(dict.fromkeys(job.recipe.outer.seed for _, job in plan(figure, settings)))
    except RecipeError as error:
        raise click.UsageError(str(error)) from error
    if figure.final is not None:
        choose_data_folder(settings.data_folder)
    if settings.out.is_dir() and any(settings.out.iterdir()) and not resume:
        raise click.UsageError(
            f"--out: expected an empty or new folder, got {settings.out}, which is not empty; add "
            "--resume to resume the run in it"
        )
    made_with = provenance(_command(figure), seeds=seeds, device=torch.device(settings.device))
    with (
        Follower(settings.out, "the same command with --resume") as follower,
        Progress(figure.name, "meta-iterations") as progress,
    ):
        outcomes = run_figure(figure, settings, report=progress.update, say=follower.say)
    path = settings.out / f"{figure.name}.json"
    write_result(path, figure_result(figure, settings, outcomes, made_with))
    width, height = figure_size(figure)
    draw = draw_figure(figure, outcomes, _subtitle(settings, outcomes))
    picture = path.with_suffix(".png")
    save_plot(picture, draw, width=width, height=height)
    click.echo("\n".join([*_findings(figure, outcomes), str(path), str(picture)]))


def _findings(figure: Figure, outcomes: Sequence[Outcome]) -> list[str]:
    """Say of each claim whether it holds."""
    unit, name = (100, " points") if figure.final is not None else (1, "")
    return [
        f"{verdict.claim.text}: {'holds' if verdict.holds(measured) else 'does not hold'} "
        f"({measured}: {unit * difference.mean:+.3g} ± {unit * difference.half_width:.2g}{name})"
        for verdict in verdicts(figure, outcomes)
        for measured, difference in verdict.differences.items()
    ]


def _subtitle(settings: RunSettings, outcomes: Sequence[Outcome]) -> str:
    """Say how this run differs from the figure's own settings."""
    runs, counts = outcomes[0].runs, {item.recipe.outer.meta_iterations for item in outcomes}
    said = [f"{', '.join(f'{count:,}' for count in sorted(counts))} meta-iterations"]
    if settings.step_scale != 1:
        said.append(f"outer step x {settings.step_scale:g}")
    said += settings.overrides
    said.append(f"{len(runs)} seed{'s' if len(runs) > 1 else ''}")
    said.append("95 % intervals over the same tasks for all")
    return ", ".join(said)


def _command(figure: Figure) -> str:
    """Return the command that runs this again, with DATA and OUT for the folders."""
    given = sys.argv[1:]
    folders = {"--data": "DATA", "--out": "OUT"}
    words = [folders.get(before, word) for before, word in zip(["", *given], given, strict=False)]
    shown = [word for word in words if word != "--resume"]
    return shlex.join(["python", f"studies/figures/{figure.name}.py", *shown])
