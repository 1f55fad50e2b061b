"""Sweep what an adaptation may choose: mode, preconditioner, head, scope and number of steps.

python studies/choosing.py [--data DIR] [--only omniglot-1shot] [--page]

Each pair of a built-in bundle and tasks gets a JSON file and a picture: accuracy, calibration and
milliseconds of every choice on the same tasks, and the paired difference to the bundle's defaults.
`--page` measures nothing; it draws the pictures again and writes the tables of docs/choosing.md.
"""

import sys
from dataclasses import replace
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kshot.bundle import Manifest
from kshot.trainer.evaluate.sweep import Axes, SweepRow, run_sweep
from studies.common.evaluation import Evaluation, Running, deciding_answers, find_builtin
from studies.common.page import write_blocks
from studies.common.results import DOCS, Row, read_results, result_path
from studies.common.rows import SWEPT, Pair
from studies.common.runner import Found, Options, chosen, run_work, study_options
from studies.pages.choosing import page_blocks
from studies.pages.sweep import plot_sweep

STUDY = "choosing"
# Digits after the point, far below the half widths of the intervals.
DIGITS = 5
MEASURED = ("accuracy", "ci95", "ece", "nll", "ms_per_task")


@click.command()
@study_options
def command(options: Options) -> None:
    """Sweep pairs and keep what was found, or write the page."""
    if options.page:
        results = read_results(STUDY, SWEPT, options.out)
        write_blocks(DOCS / "choosing.md", page_blocks(results))
    else:
        compiled = options.device.type == "cpu" if options.compiled is None else options.compiled
        options = replace(options, compiled=compiled)
        results = {
            pair.name: run_work(STUDY, evaluation(pair, compiled).work(measure, options), options)
            for pair in chosen(SWEPT, options)
        }
    for name, result in results.items():
        plot_sweep(result_path(STUDY, name, options.out).with_suffix(".png"), result)


def evaluation(pair: Pair, compiled: bool) -> Evaluation:
    """Return what is swept: all choices of a bundle on a pair's tasks."""
    bundle = find_builtin(pair.bundle)
    axes = all_choices(bundle.manifest)
    words = (
        *("--step-counts", ",".join(map(str, axes.step_counts))),
        *("--scopes", ",".join(axes.scopes)),
        *("--compile" if compiled else "--no-compile", "--sweep", "OUT"),
    )
    deciding = {
        **deciding_answers(bundle, pair.tasks),
        "step_counts": axes.step_counts,
        "compiled": compiled,
    }
    return Evaluation(pair.name, bundle, pair.bundle, pair.tasks, words, deciding)


def all_choices(manifest: Manifest) -> Axes:
    """Return every choice that a bundle allows; its default number of steps is among the steps."""
    axes = Axes.of(manifest)
    step_counts = tuple(sorted({*axes.step_counts, manifest.inner_loop.step_count}))
    return replace(axes, step_counts=step_counts, scopes=manifest.scope.allowed)


def measure(running: Running) -> Found:
    """Sweep all choices on the same tasks."""
    settings, evaluator = running.settings, running.evaluator
    axes = all_choices(evaluator.manifest)
    rows = run_sweep(evaluator, settings, axes, episodes=running.episodes, report=running.report)
    more = {
        "ci_methods": sorted({row.result.ci_method for row in rows}),
        "difference_methods": sorted({row.difference.method for row in rows if row.difference}),
        "diverged": sum(row.result.diverged_count for row in rows),
    }
    return [_row(row) for row in rows], more


def _row(row: SweepRow) -> Row:
    """Lay out a row; the bundle's defaults have no difference to themselves."""
    found = {name: getattr(row.result, name) for name in MEASURED}
    difference = row.difference
    found["difference"] = difference.mean if difference else None
    found["difference_ci95"] = difference.half_width if difference else None
    return {
        "batch_norm_mode": row.mode,
        **vars(row.variant),
        "step_count": row.result.step_count,
        **{name: value and round(value, DIGITS) for name, value in found.items()},
    }


if __name__ == "__main__":
    command()
