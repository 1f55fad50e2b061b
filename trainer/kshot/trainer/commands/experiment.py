"""`kshot experiment`: trainings that are compared, as the paper's figures do."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from kshot.trainer.commands.follower import Follower
from kshot.trainer.commands.options import (
    choose_data_folder,
    choose_device,
    data_option,
    device_option,
)
from kshot.trainer.errors import RecipeError
from kshot.trainer.experiment_files import ExperimentFile, load_experiment
from kshot.trainer.experiment_plot import draw_experiment, figure_size
from kshot.trainer.experiment_result import result_document, verdicts, write_result
from kshot.trainer.experiment_run import Outcome, RunSettings, plan, run_experiment
from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.output.plotting import check_matplotlib, figure_of, write_png
from kshot.trainer.output.progress import Progress

__all__ = ["command"]

Scale = click.FloatRange(min=0, min_open=True)
AGAIN = "the same command with --resume"


@click.command("experiment")
@click.argument("experiment_name", metavar="EXPERIMENT")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the result, NAME.json and NAME.png, and a folder for each training.",
)
@data_option
@click.option(
    "--scale",
    type=Scale,
    default=1.0,
    show_default=True,
    help="Multiply the meta-iterations of all arms by this.",
)
@click.option(
    "--step-scale",
    type=Scale,
    default=1.0,
    show_default=True,
    help="Multiply the outer step sizes of all arms by this.",
)
@click.option(
    "--seeds",
    "seed_count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train each arm so many times, all arms from the same starts.",
)
@click.option(
    "--tasks",
    "task_count",
    type=click.IntRange(min=2),
    help="Compare the arms on so many tasks.  [default: the experiment's]",
)
@click.option(
    "--arms",
    "arms",
    metavar="NAME,...",
    default="",
    help="Train these arms alone; a line's name stands for its whole sweep.  [default: all]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace one value of all arms' recipes, as inner.learning_rate=0.01; may be repeated.",
)
@click.option("--resume", is_flag=True, help="Go on with what DIR holds; finished arms stay.")
@click.option(
    "--jobs",
    "job_count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train so many arms side by side, each in a process with one CPU thread.",
)
@device_option
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Compile the inner steps.  [default: where that works]",
)
def command(
    experiment_name: str,
    out: Path,
    data_folder: Path | None,
    scale: float,
    step_scale: float,
    seed_count: int,
    task_count: int | None,
    arms: str,
    overrides: Sequence[str],
    resume: bool,
    job_count: int,
    device: str,
    compiled: bool | None,
) -> None:
    """Train all arms of EXPERIMENT and compare them on the same tasks.

    EXPERIMENT is figure3, figure4, sine, or a TOML file. Prints what was claimed and found; writes
    a plot and the numbers. What was begun in DIR goes on with --resume.
    """
    check_matplotlib()
    settings = RunSettings(
        out=out,
        data_folder=data_folder,
        device=choose_device(device).type,
        compiled=compiled,
        scale=scale,
        step_scale=step_scale,
        seed_count=seed_count,
        overrides=overrides,
        arms=[name.strip() for name in arms.split(",") if name.strip()],
        task_count=task_count,
        job_count=job_count,
    )
    try:
        file = load_experiment(experiment_name)
        plan(file, settings)
    except RecipeError as error:
        raise click.UsageError(str(error)) from error
    if file.experiment.final is not None:
        choose_data_folder(data_folder)
    _check_out(out, resume)
    with ExitStack() as stack:
        follower = stack.enter_context(Follower(out, AGAIN))
        outcomes = run_experiment(file, settings, follow=_Bars(stack).follow, say=follower.say)
    click.echo("\n".join(_write(file, settings, outcomes)))


class _Bars:
    """Shows one training's progress after another's; a terminal holds one bar."""

    def __init__(self, stack: ExitStack) -> None:
        self._bar = stack.enter_context(ExitStack())

    def follow(self, name: str) -> Callable[[TrainingReport], None]:
        """Start the bar of the training that is named, and return what moves it."""
        self._bar.close()
        progress = self._bar.enter_context(Progress(name, "meta-iterations"))

        def show(report: TrainingReport) -> None:
            note = f"{report.meta_iterations_per_second:.1f}/s, loss {report.loss:.3f}"
            progress.update(report.meta_iteration, report.meta_iterations, note)

        return show


def _write(
    file: ExperimentFile, settings: RunSettings, outcomes: Sequence[Outcome]
) -> Sequence[str]:
    """Write the numbers and the plot; return what to print."""
    experiment, out = file.experiment, settings.out
    paths = [out / f"{experiment.name}.{ending}" for ending in ("json", "png")]
    write_result(paths[0], result_document(experiment, settings, outcomes))
    width, height = figure_size(experiment)
    draw = draw_experiment(experiment, outcomes, _subtitle(settings, outcomes))
    write_png(paths[1], figure_of(draw, width=width, height=height))
    found = []
    for verdict in verdicts(experiment, outcomes):
        for measured, difference in verdict.differences.items():
            unit, name = (100, " points") if experiment.final is not None else (1, "")
            holds = "holds" if verdict.holds(measured) else "does not hold"
            found.append(
                f"{verdict.ordering.text}: {holds} ({measured}: {unit * difference.mean:+.3g} "
                f"± {unit * difference.half_width:.2g}{name})"
            )
    return [*found, *map(str, paths)]


def _subtitle(settings: RunSettings, outcomes: Sequence[Outcome]) -> str:
    """Say how far the run is from the experiment as it is written."""
    runs, counts = outcomes[0].runs, {item.recipe.outer.meta_iterations for item in outcomes}
    said = [f"{', '.join(f'{count:,}' for count in sorted(counts))} meta-iterations"]
    if settings.step_scale != 1:
        said.append(f"outer step x {settings.step_scale:g}")
    said += settings.overrides
    said.append(f"{len(runs)} seed{'s' if len(runs) > 1 else ''}")
    said.append("95 % intervals over the same tasks for all")
    return ", ".join(said)


def _check_out(out: Path, resume: bool) -> None:
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise click.UsageError(
            f"--out is {out}, which is not empty, wanted an empty or new folder; to go on with the "
            "experiment in it, add --resume"
        )
