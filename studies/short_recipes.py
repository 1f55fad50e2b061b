"""Train every recipe for a short length and see whether it adapts better than its start.

python studies/short_recipes.py [--data DIR] [--only NAME,NAME] [--page]

The start and the end of a training adapt to the same test tasks; the paired difference has a 95 %
interval. All is computed on the CPU, uncompiled. Recipes whose data are missing are left out.
`--page` measures nothing and writes the table beside the results.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.statistics import T_METHOD, t_half_width
from studies.common.page import table, write_blocks
from studies.common.results import RESULTS, Result, Row, read_results
from studies.common.rows import read_rows
from studies.common.runner import Found, Options, Work, chosen, run_work, say, study_options
from studies.figures.figure import Figure, Job, RunSettings
from studies.figures.training import compared_names, train_arm

STUDY = "short-recipes"
# Points of the curves and the bundle's own table take time and decide nothing here.
FEW = ("evaluation.task_count=2", "evaluation.table.task_count=2")
HEAD = ("recipe", "meta-iterations", "better by (points)")


@dataclass(frozen=True)
class ShortRun:
    """How a recipe is cut short, and the test tasks on which its start and its end are compared.

    `settings` are further values for `--set`. `query_count` is per class; `step_count` is that of
    both adaptations, None the bundle's own. Sine waves have tasks of their own.
    """

    recipe: str
    meta_iterations: int
    settings: tuple[str, ...]
    task_count: int
    query_count: int
    step_count: int | None = None


# Reads the short trainings, by their recipes.
short_runs = cache(partial(read_rows, "short_recipes", ShortRun))


@click.command()
@study_options
def command(options: Options) -> None:
    """Train and compare recipes and keep what was found, or write the page."""
    if options.page:
        results = read_results(STUDY, short_runs(), options.out)
        write_blocks(RESULTS / STUDY / "README.md", {"short trainings": block(results)})
        return
    on_cpu = replace(options, device=torch.device("cpu"), compiled=False)
    for run in chosen(short_runs(), options):
        asked = replace(run, task_count=options.task_count or run.task_count)
        try:
            result = run_work(STUDY, work(asked, options.data_folder or Path()), on_cpu)
        except DataError as error:
            say(f"{run.recipe}: left out; {error}")
        else:
            say(" ".join(_cells(result)))


def work(run: ShortRun, data_folder: Path) -> Work:
    """Return what decides a recipe's comparison, and how it is trained and measured."""
    few = FEW if isinstance(load_recipe(run.recipe), Recipe) else ()
    settings = [f"outer.meta_iterations={run.meta_iterations}", *run.settings, *few]
    command = " --set ".join([f"kshot train {run.recipe}", *settings])
    deciding = {**vars(run), "settings": settings}
    measure = partial(_measure, run, settings, data_folder)
    return Work(run.recipe, f"{command} --no-compile --device cpu", deciding, measure)


def block(results: Mapping[str, Result]) -> str:
    """Return the table of the page, a line for each recipe."""
    return table(HEAD, (_cells(result) for result in results.values()))


def compared(measure: str, start: Sequence[float], end: Sequence[float]) -> Row:
    """Return the means of the test tasks before and after training, and the paired difference.

    Of a squared error less is better. The end is better if the whole interval is above zero.
    """
    worse, better = (end, start) if measure == "squared_error" else (start, end)
    difference = paired_difference(better, worse)
    return {
        "measure": measure,
        "start": float(np.mean(start)),
        "start_ci95": t_half_width(np.asarray(start)),
        "end": float(np.mean(end)),
        "end_ci95": t_half_width(np.asarray(end)),
        "ci_method": T_METHOD,
        "improvement": difference.mean,
        "improvement_ci95": difference.half_width,
        "improvement_method": difference.method,
        "improved": difference.mean > difference.half_width,
    }


def _measure(run: ShortRun, settings: Sequence[str], data_folder: Path) -> Found:
    recipe = load_recipe(run.recipe, settings)
    if isinstance(recipe, Recipe):
        step_count = run.step_count or recipe.serving.step_count
        recipe = load_recipe(run.recipe, [*settings, f"evaluation.step_count={step_count}"])
    figure, scores = Figure(run.recipe, "", query_count=run.query_count), []
    with tempfile.TemporaryDirectory() as scratch, Progress(run.recipe, "meta-iterations") as shown:
        out, device = Path(scratch), torch.device("cpu")
        settled = RunSettings(out, data_folder, device, False, task_count=run.task_count)

        def report(at: TrainingReport) -> None:
            shown.update(at.meta_iteration, at.meta_iterations)

        for trained in (False, True):
            arm = train_arm(figure, settled, Job(recipe, out / str(trained), trained), report, say)
            measured = compared_names(arm["scores"], arm["query_count"])[0]
            scores.append(arm["scores"][measured])
    measure = "accuracy" if isinstance(recipe, Recipe) else "squared_error"
    return [compared(measure, *scores)], {"measured": measured}


def _cells(result: Result) -> Sequence[str]:
    (row,) = result.rows
    digits, unit = (".1f", 100) if row["measure"] == "accuracy" else (".3f", 1)
    better = f"{unit * row['improvement']:{digits}} ± {unit * row['improvement_ci95']:{digits}}"
    return f"`{result.name}`", f"{result.settings['meta_iterations']:,}", better


if __name__ == "__main__":
    command()
