"""Measure how well the probabilities of the built-in bundles are calibrated, on test tasks.

python studies/calibration.py [--data DIR] [--only cifar-fs-2shot] [--page]

Each pair of bundle and tasks is adapted and answered by the bundle's defaults, as the server does,
in every batch-norm mode. `--page` measures nothing and writes the table beside the results.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kshot.bundle import COMPUTED_MODES, builtin_bundle, load_bundle
from studies.common.bundles import measured_name
from studies.common.evaluation import Evaluation, Pair, measure_modes, read_pairs
from studies.common.page import table, write_blocks
from studies.common.results import RESULTS, Result, read_results
from studies.common.runner import Options, chosen, run_work, study_options

STUDY = "calibration"
COLUMNS = ("accuracy", "ci95", "ece", "nll")
HEAD = ("", "examples", "tasks", *(f"`{mode}`, %" for mode in COMPUTED_MODES))


@click.command()
@study_options
def command(options: Options) -> None:
    """Measure pairs and keep what was found, or write the page."""
    if options.page:
        results = read_results(STUDY, read_pairs(STUDY), options.out)
        write_blocks(RESULTS / STUDY / "README.md", {"calibration": page_block(results)})
        return
    for pair in chosen(read_pairs(STUDY), options):
        asked = evaluation(pair)
        measure = partial(measure_modes, asked.bundle.manifest.batch_norm.allowed, COLUMNS)
        run_work(STUDY, asked.work(measure, options), options)


def evaluation(pair: Pair) -> Evaluation:
    """Return what is evaluated: a pair by its bundle's defaults, in every mode."""
    name, words = measured_name(pair.bundle), ("--batch-norm-mode", "MODE")
    bundle = load_bundle(builtin_bundle(name))
    deciding = pair.tasks.deciding_answers(bundle)
    return Evaluation(pair.name, bundle, name, pair.tasks, words, deciding)


def page_block(results: Mapping[str, Result]) -> str:
    """Return the expected calibration errors, a line for each pair that was measured."""
    lines, pairs = [], read_pairs(STUDY)
    for name, result in results.items():
        pair, errors = pairs[name], {row["batch_norm"]: row["ece"] for row in result.rows}
        tasks = (str(pair.tasks.shot), f"{result.settings['tasks']:,}")
        lines.append(
            [pair.title, *tasks, *(f"{100 * errors[mode]:.1f}" for mode in COMPUTED_MODES)]
        )
    return table(HEAD, lines)


if __name__ == "__main__":
    command()
