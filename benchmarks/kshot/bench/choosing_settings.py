"""The tasks of a pair, what a bundle does with them by default, and whose sweep a document is."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import replace

from kshot.bench.choosing_pairs import Pair
from kshot.bench.evaluated_bundle import adaptation_digest
from kshot.bundle import Bundle, Manifest
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import Axes

__all__ = [
    "answers",
    "defaults_of",
    "evaluate_words",
    "pair_settings",
    "same_temperature",
    "sweep_command",
    "temperatures_of",
]

TASK_SEED = 0
# Temperatures that are fitted again on another machine differ in their last digits.
SAME_TEMPERATURE = 1e-3


def pair_settings(
    pair: Pair, manifest: Manifest, task_count: int | None, query_count: int | None
) -> EvaluationSettings:
    """Return the tasks of a pair, or as many others as are asked for, in the bundle's mode."""
    return EvaluationSettings(
        way=pair.way,
        shot=pair.shot,
        query_count=query_count or pair.query_count,
        task_count=task_count or pair.task_count,
        batch_norm_mode=manifest.batch_norm.default,
        seed=TASK_SEED,
    )


def evaluate_words(pair: Pair, settings: EvaluationSettings) -> list[str]:
    """Return the command that evaluates a pair's tasks."""
    words = ["kshot", "evaluate", pair.bundle]
    if pair.other is not None:
        words += ["--dataset", pair.other.dataset, "--dataset-split", pair.other.split]
    for name, value in (
        ("way", settings.way),
        ("shot", settings.shot),
        ("queries", settings.query_count),
        ("tasks", settings.task_count),
        ("seed", settings.seed),
    ):
        words += [f"--{name}", str(value)]
    return words


def sweep_command(pair: Pair, settings: EvaluationSettings, axes: Axes, *, compiled: bool) -> str:
    """Return the command that sweeps a pair again."""
    words = evaluate_words(pair, settings)
    words += ["--step-counts", ",".join(map(str, axes.step_counts))]
    words += ["--scopes", ",".join(axes.scopes)]
    return shlex.join([*words, "--compile" if compiled else "--no-compile", "--sweep", "OUT"])


def answers(
    document: Mapping[str, object], bundle: Bundle, settings: EvaluationSettings, command: str
) -> bool:
    """Tell whether a document is a bundle's sweep by a command.

    A bundle whose card, or whose temperatures for other tasks, have changed since keeps its sweep:
    what counts is what decides logits, and the temperatures of these tasks.
    """
    wanted = (adaptation_digest(bundle), command)
    if (document.get("adaptation_digest"), document.get("command")) != wanted:
        return False
    divided = document.get("temperatures")
    return isinstance(divided, Mapping) and all(
        same_temperature(divided.get(mode), temperature)
        for mode, temperature in temperatures_of(bundle.manifest, settings).items()
    )


def same_temperature(found: object, wanted: float) -> bool:
    """Tell whether a temperature is the same but for where it was fitted."""
    return isinstance(found, int | float) and math.isclose(found, wanted, rel_tol=SAME_TEMPERATURE)


def temperatures_of(manifest: Manifest, settings: EvaluationSettings) -> dict[str, float]:
    """Return what logits of these tasks are divided by, by the batch-norm mode."""
    return {
        mode.value: replace(settings, batch_norm_mode=mode).temperature(manifest)
        for mode in manifest.batch_norm.allowed
    }


def defaults_of(manifest: Manifest) -> dict[str, object]:
    """Return what a bundle does when it is asked for nothing."""
    return {
        "batch_norm_mode": manifest.batch_norm.default.value,
        "preconditioner": manifest.inner_loop.preconditioner.value,
        "head": manifest.head.default.value,
        "scope": manifest.scope.default.value,
        "step_count": manifest.inner_loop.step_count,
    }
