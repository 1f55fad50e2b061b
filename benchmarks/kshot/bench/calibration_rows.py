"""Which answers' calibration is measured, how, and the table that it makes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import cast

import torch

from kshot.bench.choosing_pairs import DIGITS, Pair
from kshot.bench.choosing_settings import (
    evaluate_words,
    pair_settings,
    same_temperature,
    temperatures_of,
)
from kshot.bench.environment import environment
from kshot.bench.evaluated_bundle import adaptation_digest
from kshot.bench.marked_page import table
from kshot.bench.row_file import Row
from kshot.bundle import BatchNormMode, Bundle
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings

__all__ = [
    "CALIBRATED",
    "calibration_block",
    "is_whole",
    "measure_calibration",
    "renewed_calibration",
]

HEAD = ("", "examples", "tasks", *(f"`{mode}`" for mode in BatchNormMode))


def _of_characters(bundle: str, way: int, shots: Sequence[int], tasks: int) -> list[Pair]:
    """Make the pairs of a bundle and its own test classes."""
    queries = 5 if way == 5 else 1
    return [
        Pair(f"{bundle}-{shot}shot", bundle, f"`{bundle}`", way, shot, tasks, queries)
        for shot in shots
    ]


def _of_digits(bundle: str) -> Pair:
    name = f"{bundle}-digits-5shot"
    return Pair(name, bundle, f"`{bundle}` on digits", 5, 5, 1000, 5, DIGITS)


# Between 10,000 and 25,000 answers: a few thousand leave a point of ECE to chance.
CALIBRATED = (
    *_of_characters("omniglot", 5, (1, 2, 5), 1000),
    _of_digits("omniglot"),
    *_of_characters("omniglot-best", 5, (1, 2, 5), 1000),
    _of_digits("omniglot-best"),
    *_of_characters("omniglot-20way", 20, (1, 5), 500),
    *_of_characters("cifar-fs", 5, (1, 2, 3, 5), 1000),
)


def measure_calibration(
    pair: Pair,
    bundle: Bundle,
    dataset: ImageDataset,
    task_count: int | None,
    *,
    device: torch.device,
    compiled: bool | None,
    say: Callable[[str], None],
    report: Callable[[int, int], None],
) -> list[Row]:
    """Adapt as the server does by default, answer in every mode, return a row for each.

    Raises ``TrainingError`` and ``DataError`` as an ``Evaluator`` does.
    """
    manifest, made_with = bundle.manifest, environment()
    settings = pair_settings(pair, manifest, task_count, None)
    evaluator = Evaluator.of_bundle(bundle, dataset, device, compiled=compiled, say=say)
    found = evaluator.evaluate(settings, manifest.batch_norm.allowed, report=report)
    temperatures = temperatures_of(manifest, settings)
    return [
        {
            "pair": pair.name,
            "bundle": pair.bundle,
            "bundle_digest": bundle.digest,
            "adaptation_digest": adaptation_digest(bundle),
            "data": dataset.name,
            "way": pair.way,
            "shot": pair.shot,
            "queries": pair.query_count,
            "tasks": result.task_count,
            "seed": settings.seed,
            "batch_norm": mode.value,
            "temperature": temperatures[mode.value],
            "accuracy": result.accuracy,
            "ci95": result.ci95,
            "ece": result.ece,
            "nll": result.nll,
            "episodes_digest": result.episodes_digest,
            "device": made_with["gpu" if device.type == "cuda" else "cpu"],
            "commit": made_with["commit"],
            "command": calibration_command(pair, settings, mode),
        }
        for mode, result in found.items()
    ]


def calibration_command(pair: Pair, settings: EvaluationSettings, mode: BatchNormMode) -> str:
    """Return the command that measures a row again."""
    return shlex.join([*evaluate_words(pair, settings), "--batch-norm-mode", mode])


def renewed_calibration(
    rows: Sequence[Row], pair: Pair, bundle: Bundle, task_count: int | None
) -> list[Row] | None:
    """Return a pair's rows as of the bundle where all were measured before, None where not.

    A bundle whose card, or whose temperatures for other tasks, have changed since keeps them.
    """
    settings = pair_settings(pair, bundle.manifest, task_count, None)
    found = {row["batch_norm"]: row for row in rows if row["pair"] == pair.name}
    temperatures = temperatures_of(bundle.manifest, settings)
    if found.keys() != temperatures.keys():
        return None
    digest = adaptation_digest(bundle)
    for mode in bundle.manifest.batch_norm.allowed:
        row = found[mode.value]
        asked = (digest, calibration_command(pair, settings, mode))
        if (row["adaptation_digest"], row["command"]) != asked or not same_temperature(
            row["temperature"], temperatures[mode.value]
        ):
            return None
    return [{**row, "bundle_digest": bundle.digest} for row in found.values()]


def is_whole(row: Row) -> bool:
    """Tell whether a row's values are of the types that the table reads."""
    return (
        isinstance(row["pair"], str)
        and row["batch_norm"] in list(BatchNormMode)
        and isinstance(row["tasks"], int)
        and isinstance(row["ece"], int | float)
    )


def calibration_block(rows: Sequence[Row]) -> str:
    """Return the table of expected calibration errors, a line for each pair that was measured."""
    lines = []
    for pair in CALIBRATED:
        of_pair = {row["batch_norm"]: row for row in rows if row["pair"] == pair.name}
        if of_pair:
            tasks = next(iter(of_pair.values()))["tasks"]
            errors = [_percent(of_pair.get(mode.value)) for mode in BatchNormMode]
            lines.append([pair.title, str(pair.shot), f"{tasks:,}", *errors])
    return table(HEAD, lines) if lines else "Nothing is measured yet."


def _percent(row: Row | None) -> str:
    return "not measured" if row is None else f"{100 * cast(float, row['ece']):.1f} %"
