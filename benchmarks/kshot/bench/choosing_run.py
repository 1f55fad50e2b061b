"""A sweep over all choices of an adaptation, as a compact document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from kshot.bench.choosing_pairs import Pair
from kshot.bench.choosing_settings import defaults_of, sweep_command, temperatures_of
from kshot.bench.environment import environment
from kshot.bench.evaluated_bundle import adaptation_digest
from kshot.bundle import Bundle, Manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import Axes, SweepRow, run_sweep

__all__ = [
    "COLUMNS",
    "Document",
    "Setup",
    "all_choices",
    "document_json",
    "measure_pair",
]

# Digits after the point, far below what the intervals leave open.
DIGITS, MILLISECOND_DIGITS = 5, 2
# A row's values: first what was chosen, then what was found. ``difference`` is to the defaults.
COLUMNS = (
    "batch_norm_mode",
    "preconditioner",
    "head",
    "scope",
    "step_count",
    "baseline",
    "accuracy",
    "ci95",
    "ece",
    "nll",
    "ms_per_task",
    "difference",
    "difference_ci95",
)

Document = Mapping[str, object]


@dataclass(frozen=True)
class Setup:
    """What a sweep runs on, and whether its steps are compiled."""

    device: torch.device
    compiled: bool
    say: Callable[[str], None]
    report: Callable[[int, int], None]


def all_choices(manifest: Manifest) -> Axes:
    """Return every choice that a bundle allows, its default number of steps among the steps."""
    axes = Axes.of(manifest)
    step_counts = tuple(sorted({*axes.step_counts, manifest.inner_loop.step_count}))
    return replace(axes, step_counts=step_counts, scopes=manifest.scope.allowed)


def measure_pair(
    pair: Pair,
    bundle: Bundle,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    axes: Axes,
    setup: Setup,
) -> Document:
    """Sweep all choices on the same tasks and lay out what was found, without counts of tasks.

    Raises ``TrainingError`` and ``DataError`` as `run_sweep` does.
    """
    manifest, made_with = bundle.manifest, environment()
    evaluator = Evaluator.of_bundle(
        bundle, dataset, setup.device, compiled=setup.compiled, say=setup.say
    )
    rows = run_sweep(evaluator, settings, axes, report=setup.report)
    first = rows[0].result
    return {
        "pair": pair.name,
        "bundle": manifest.name,
        "bundle_version": manifest.version,
        "bundle_digest": bundle.digest,
        "adaptation_digest": adaptation_digest(bundle),
        "recipe": manifest.provenance.recipe,
        "meta_iterations": manifest.provenance.meta_iterations,
        "data": dataset.name,
        "data_digest": dataset.digest,
        "split_digest": dataset.split_digest,
        "episodes_digest": first.episodes_digest,
        "way": settings.way,
        "shot": settings.shot,
        "queries": settings.query_count,
        "queries_per_task": first.query_count,
        "tasks": first.task_count,
        "seed": settings.seed,
        "batch_size": manifest.default_batch_size(settings.way),
        "defaults": defaults_of(manifest),
        "temperatures": temperatures_of(manifest, settings),
        "compiled": setup.compiled,
        "command": sweep_command(pair, settings, axes, compiled=setup.compiled),
        "commit": made_with.pop("commit"),
        "device": made_with["gpu" if setup.device.type == "cuda" else "cpu"],
        "environment": made_with,
        "ci_methods": sorted({row.result.ci_method for row in rows}),
        "difference_methods": sorted({row.difference.method for row in rows if row.difference}),
        "diverged": sum(row.result.diverged_count for row in rows),
        "columns": list(COLUMNS),
        "rows": [_row(row) for row in rows],
    }


def document_json(document: Document) -> str:
    """Write a document as JSON, a row a line."""
    rows = document.get("rows")
    head = json.dumps({key: value for key, value in document.items() if key != "rows"}, indent=1)
    if not isinstance(rows, Sequence):
        return head + "\n"
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n'


def _row(row: SweepRow) -> list[object]:
    """Lay out a row in the order of `COLUMNS`; the bundle's defaults have no difference to them."""
    variant, result = row.variant, row.result
    difference: list[object] = [None, None]
    if row.difference is not None:
        interval = (row.difference.mean, row.difference.half_width)
        difference = [round(value, DIGITS) for value in interval]
    return [
        row.mode.value,
        variant.preconditioner,
        variant.head,
        variant.scope,
        result.step_count,
        variant.baseline,
        *(round(value, DIGITS) for value in (result.accuracy, result.ci95, result.ece, result.nll)),
        round(result.ms_per_task, MILLISECOND_DIGITS),
        *difference,
    ]
