"""Train every recipe for a short length and see whether it adapts better than its start.

python studies/short_recipes.py [--data DIR] [--only NAME,NAME] [--page]

Each recipe is trained by its one command, `kshot train`. Its start and its end then adapt to the
same test tasks; the paired difference has a 95 % interval. Recipes whose data are not in the data
folder are left out. `--page` measures nothing and writes the table of docs/recipes.md.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.loop.image_run import image_training
from kshot.trainer.loop.run import Training, resumed_state
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.evaluation import sine_errors
from kshot.trainer.sine.run import sine_training
from kshot.trainer.statistics import T_METHOD, t_half_width
from kshot.trainer.tasks.training_tasks import Drawn
from studies.common.page import table, write_blocks
from studies.common.results import DOCS, Result, Row, read_results
from studies.common.runner import Found, Options, Work, chosen, run_work, say, study_options
from studies.rows.short_runs import SHORT_RUNS, ShortRun

STUDY = "short-recipes"
CPU = torch.device("cpu")
# Points of the curves and the bundle's own table take time and decide nothing here.
FEW = ("evaluation.task_count=2", "evaluation.table.task_count=2")
RATE_SECONDS = 2.0
HEAD = ("recipe", "meta-iterations", "better by (points)")


@click.command()
@study_options
def command(options: Options) -> None:
    """Train and compare recipes and keep what was found, or write the page."""
    if options.page:
        results = read_results(STUDY, SHORT_RUNS, options.out)
        write_blocks(DOCS / "recipes.md", {"short trainings": block(results)})
        return
    for run in chosen(SHORT_RUNS.items(), options):
        asked = replace(run, task_count=options.task_count or run.task_count)
        try:
            result = run_work(STUDY, work(asked, options.data_folder or Path()), options)
        except DataError as error:
            say(f"{run.recipe}: left out; {error}")
        else:
            say(" ".join(_cells(result)))


def work(run: ShortRun, data_folder: Path) -> Work:
    """Return what decides a recipe's comparison, and how it is trained and measured."""
    few = FEW if isinstance(load_recipe(run.recipe), Recipe) else ()
    settings = [f"outer.meta_iterations={run.meta_iterations}", *run.settings, *few]
    words = ["train", run.recipe, *(word for setting in settings for word in ("--set", setting))]
    words += ["--no-compile", "--device", "cpu"]
    deciding = {**vars(run), "settings": settings}
    measure = partial(_measure, run, settings, words, data_folder)
    return Work(run.recipe, " ".join(["kshot", *words]), deciding, measure)


def train(arguments: Sequence[str]) -> None:
    """Run `kshot` in a process of its own."""
    subprocess.run([sys.executable, "-m", "kshot", *arguments], check=True)  # noqa: S603 -- ours


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


def _measure(
    run: ShortRun, settings: Sequence[str], words: Sequence[str], data_folder: Path, _: Path
) -> Found:
    recipe = load_recipe(run.recipe, settings)
    data: list[str] = []
    if isinstance(recipe, Recipe):
        read_dataset(recipe.data, data_folder, "test", input_spec=recipe.input)  # or it is left out
        data = ["--data", str(data_folder)]
    say(f"training {run.recipe} for {run.meta_iterations} meta-iterations")
    with tempfile.TemporaryDirectory() as scratch:
        out, started = Path(scratch) / "run", time.monotonic()
        train([*words, "--out", str(out), *data])
        seconds = time.monotonic() - started
        if isinstance(recipe, Recipe):
            row, tasks, rate = _compare_images(run, recipe, data_folder, out)
        else:
            row, tasks, rate = _compare_waves(recipe, out)
    costs = {"meta_iterations_per_cpu_second": rate, "seconds": seconds}
    return [{**row, **costs}], {"tasks": tasks}


def _compare_images(
    run: ShortRun, recipe: Recipe, folder: Path, out: Path
) -> tuple[Row, str, float]:
    train_data, test_data = (
        read_dataset(recipe.data, folder, part, input_spec=recipe.input)
        for part in ("train", "test")
    )
    manifest = draft_manifest(recipe, train_data)
    training = image_training(recipe, manifest, train_data, test_data, CPU)
    mode = manifest.batch_norm.default
    asked = EvaluationSettings(
        way=recipe.evaluation.way,
        shot=recipe.evaluation.shot,
        query_count=run.query_count,
        task_count=run.task_count,
        batch_norm_mode=mode,
        step_count=run.step_count or manifest.inner_loop.step_count,
        batch_size=recipe.evaluation.batch_size,
    )
    start, end = (
        Evaluator(state, manifest, test_data).evaluate(asked)[mode]
        for state in _states(training, out)
    )
    tasks = (
        f"{run.task_count} {asked.way}-way {asked.shot}-shot tasks of test classes, "
        f"{run.query_count} queries per class, {asked.step_count} steps, batch-norm mode {mode}, "
        f"episodes {start.episodes_digest[:12]}"
    )
    row = compared("accuracy", start.task_accuracies, end.task_accuracies)
    return row, tasks, _rate(training)


def _compare_waves(recipe: SineRecipe, out: Path) -> tuple[Row, str, float]:
    training = sine_training(recipe, CPU)
    start, end = (sine_errors(state, recipe) for state in _states(training, out))
    tasks = (
        f"{recipe.evaluation.task_count} waves, squared error over the grid after "
        f"{start.step_counts[-1]} steps"
    )
    row = compared("squared_error", start.errors[-1].tolist(), end.errors[-1].tolist())
    return row, tasks, _rate(training)


def _states(training: Training[Drawn], out: Path) -> tuple[Initialization, Initialization]:
    """Return what the training in a folder started from and what it has learned."""
    end = resumed_state(training, out)
    return training.initialization(training.first), training.initialization(end)


def _rate(training: Training[Drawn]) -> float:
    """Count meta-iterations per second of CPU time, which other processes take nothing from."""
    state, _ = training.loop.advance(training.first)
    count, started = 0, time.process_time()
    while time.process_time() - started < RATE_SECONDS:
        state, _ = training.loop.advance(state)
        count += 1
    return count / (time.process_time() - started)


def _cells(result: Result) -> Sequence[str]:
    (row,) = result.rows
    digits, unit = (".1f", 100) if row["measure"] == "accuracy" else (".3f", 1)
    better = f"{unit * row['improvement']:{digits}} ± {unit * row['improvement_ci95']:{digits}}"
    return f"`{result.name}`", f"{result.settings['meta_iterations']:,}", better


if __name__ == "__main__":
    command()
