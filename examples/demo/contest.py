"""kshot and simple classifiers on the same tasks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table
from scipy.stats import t

from examples.demo.pictures import Subject, Task, draw_task
from kshot.client import Client
from kshot.trainer.rivals.rivals import RIVALS, one_thread

SINGLE_CALLS = 5  # by which the time of a prediction is measured
CONTENDERS = {
    "kshot": "kshot",
    "hog-lr": "HOG and\nlogistic r.",
    "colour-lr": "colours and\nlogistic r.",
    "pixels-1nn": "1-NN on\npixels",
}


@dataclass
class Outcome:
    """Accuracies of each contender, one per task, and kshot's milliseconds of whole calls."""

    accuracies: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in CONTENDERS}
    )
    adapt_ms: list[float] = field(default_factory=list)
    predict_ms: list[float] = field(default_factory=list)


def measure(client: Client, subject: Subject, shot: int) -> Outcome:
    """Let all contenders solve the same tasks."""
    outcome = Outcome()
    for seed in range(subject.task_count):
        task = draw_task(subject, shot, seed)
        truth = np.array(task.truth)

        started = time.perf_counter()
        adapted = client.adapt(task.support, task.labels, model=subject.model, seed=seed)
        outcome.adapt_ms.append(1e3 * (time.perf_counter() - started))
        answers = {"kshot": np.array(adapted.predict(task.queries).labels)}
        for query in task.queries[:SINGLE_CALLS]:
            started = time.perf_counter()
            adapted.predict([query])
            outcome.predict_ms.append(1e3 * (time.perf_counter() - started))
        adapted.delete()

        with one_thread():
            answers |= {name: simple_answers(name, task) for name in CONTENDERS if name in RIVALS}
        for name, labels in answers.items():
            outcome.accuracies[name].append(float(np.mean(labels == truth)))
    return outcome


def simple_answers(name: str, task: Task) -> np.ndarray:
    """Return the labels that a simple classifier gives a task's queries."""
    rival = RIVALS[name]
    names, indices = np.unique(task.labels, return_inverse=True)
    learned = rival.fit(np.stack([rival.describe(one) for one in task.support]), indices)
    found = learned.predict_proba(np.stack([rival.describe(one) for one in task.queries]))
    return np.asarray(names[found.argmax(axis=1)])


def new_table() -> Table:
    """Return the table without rows."""
    table = Table(
        title="Accuracy in %, ± half of a 95 % interval over tasks, and kshot's milliseconds"
    )
    for heading in ("pictures", "examples\nper class", *CONTENDERS.values()):
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=True)
    for heading in ("adapt,\nms", "predict,\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def add_row(table: Table, subject: Subject, shot: int, outcome: Outcome) -> None:
    """Add what a subject's tasks gave; the best contender is bold."""
    means = {name: float(np.mean(found)) for name, found in outcome.accuracies.items()}
    best = max(means.values())
    cells = []
    for name, found in outcome.accuracies.items():
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        half = float(t.ppf(0.975, len(found) - 1) * error)
        cell = f"{100 * means[name]:.1f} ± {100 * half:.1f}"
        cells.append(f"[bold]{cell}[/bold]" if means[name] == best else cell)
    times = (f"{np.median(outcome.adapt_ms):.0f}", f"{np.median(outcome.predict_ms):.1f}")
    table.add_row(f"{subject.title}, by `{subject.model}`", str(shot), *cells, *times)
