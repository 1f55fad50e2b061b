"""The files of a sweep: JSON, Markdown and a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kshot.bundle import BatchNormMode, Bundle
from kshot.local import write_file
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import writing
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import SweepRow, Variant
from kshot.trainer.output.plotting import write_png
from kshot.trainer.output.sweep_plot import sweep_figure
from kshot.trainer.statistics import Interval
from kshot.trainer.tasks.support_flaws import SupportFlaws

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "sweep.json", "sweep.md", "sweep.png"
SWEEP_FILES = (JSON_FILE, MARKDOWN_FILE, PLOT_FILE)


@dataclass(frozen=True)
class SweepSubject:
    """The subject of a sweep: a bundle, tasks of a data set, and the device in words."""

    bundle: Bundle
    dataset: ImageDataset
    settings: EvaluationSettings
    device: str


def write_sweep(folder: Path, subject: SweepSubject, rows: Sequence[SweepRow]) -> tuple[str, str]:
    """Write the files of a sweep to a folder, and return its JSON and its Markdown.

    Raises `TrainingError` when a file cannot be written, and without matplotlib.
    """
    settings = subject.settings
    title = (
        f"{subject.bundle.manifest.name}: {settings.way}-way {settings.shot}-shot, "
        f"{settings.task_count} tasks of {subject.dataset.name}"
    )
    figure = sweep_figure(title, rows)
    document, table = sweep_json(subject, rows), sweep_markdown(subject, rows)
    for name, text in ((JSON_FILE, document), (MARKDOWN_FILE, table)):
        with writing(folder / name):
            write_file(folder / name, text.encode())
    write_png(folder / PLOT_FILE, figure)
    return document, table


def difference_document(difference: Interval) -> dict[str, object]:
    """Lay out a paired difference as JSON; `ci95` is a half width."""
    return {"mean": difference.mean, "ci95": difference.half_width, "ci_method": difference.method}


def sweep_json(subject: SweepSubject, rows: Sequence[SweepRow]) -> str:
    """Lay out a sweep as JSON, one row per line; accuracies in 0..1, `ci95` is a half width."""
    described = json.dumps(_header(subject, rows), indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(_row_document(subject, row))}" for row in rows)
    return f'{described},\n "rows": [\n{lines}\n ]\n}}\n'


def sweep_markdown(subject: SweepSubject, rows: Sequence[SweepRow]) -> str:
    """Lay out a sweep as Markdown: a table per batch-norm mode, a column per step count."""
    settings, manifest = subject.settings, subject.bundle.manifest
    first = rows[0].result
    step_counts = sorted({row.result.step_count for row in rows})
    lines = [
        f"# Sweep of {manifest.name} {manifest.version}",
        "",
        f"{settings.way}-way {settings.shot}-shot tasks of {subject.dataset.name}: "
        f"{first.task_count} tasks of {first.query_count} queries, the same for all rows "
        f"(seed {settings.seed}, episodes `{first.episodes_digest}`).{_flaws(settings.flaws)} "
        f"Computed on {subject.device}.",
        "",
        "Accuracy in % ± the half width of its interval "
        f"({', '.join(sorted({row.result.ci_method for row in rows}))}), and milliseconds per task "
        "(adaptation and answers).",
        "",
    ]
    for mode in BatchNormMode:
        if of_mode := [row for row in rows if row.mode == mode]:
            lines += [f"## `{mode}`", "", *_table(of_mode, step_counts), ""]
    return "\n".join(lines)


def _table(rows: Sequence[SweepRow], step_counts: Sequence[int]) -> list[str]:
    with_scope = len({row.variant.scope for row in rows} - {None}) > 1
    results: dict[Variant, dict[int, EvaluationResult]] = {}
    for row in rows:
        results.setdefault(row.variant, {})[row.result.step_count] = row.result
    head = ["variant", *(f"{count} step{'' if count == 1 else 's'}" for count in step_counts)]
    lines = [head, ["---", *["---:"] * len(step_counts)]]
    for variant, by_steps in results.items():
        name = f"{variant.preconditioner}, head {variant.head}"
        name += f", scope {variant.scope}" if with_scope else ""
        name = "NIL (no adaptation, cosine)" if variant.baseline else name
        lines.append([name, *(_cell(by_steps.get(count)) for count in step_counts)])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _cell(result: EvaluationResult | None) -> str:
    if result is None:
        return ""
    accuracy, ci95 = 100 * result.accuracy, 100 * result.ci95
    return f"{accuracy:.2f} ± {ci95:.2f}, {result.ms_per_task:.1f} ms"


def _flaws(flaws: SupportFlaws) -> str:
    wrong = f" {100 * flaws.wrong_labels:g} % of the support labels are wrong."
    return wrong * bool(flaws.wrong_labels) + " Shots are uneven." * flaws.imbalance


def _header(subject: SweepSubject, rows: Sequence[SweepRow]) -> dict[str, object]:
    settings, bundle, dataset = subject.settings, subject.bundle, subject.dataset
    first = rows[0].result
    return {
        "bundle": bundle.manifest.name,
        "bundle_version": bundle.manifest.version,
        "bundle_digest": bundle.digest,
        "data": dataset.name,
        "data_digest": dataset.digest,
        "split_digest": dataset.split_digest,
        "episodes_digest": first.episodes_digest,
        "way": settings.way,
        "shot": settings.shot,
        "queries": settings.query_count,
        "tasks": first.task_count,
        "queries_per_task": first.query_count,
        "seed": settings.seed,
        **asdict(settings.flaws),
        "device": subject.device,
    }


def _row_document(subject: SweepSubject, row: SweepRow) -> dict[str, object]:
    result = row.result
    settings = replace(subject.settings, batch_norm_mode=row.mode, baseline=row.variant.baseline)
    return {
        **asdict(row.variant),
        "batch_norm_mode": row.mode,
        "step_count": result.step_count,
        "accuracy": result.accuracy,
        "ci95": result.ci95,
        "ci_method": result.ci_method,
        "ece": result.ece,
        "nll": result.nll,
        "temperature": settings.temperature(subject.bundle.manifest),
        "ms_per_task": result.ms_per_task,
        "diverged": result.diverged_count,
        "unknown": asdict(result.unknown) if result.unknown else None,
        "difference": row.difference and difference_document(row.difference),
        "correct_counts": result.correct_counts,
    }
