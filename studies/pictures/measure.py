"""Contenders on the tasks of a row: measured task by task, so that a stopped run goes on."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from kshot.bundle import cache_folder
from kshot.client import InvalidArgumentError
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.output.progress import Progress
from kshot.trainer.rivals.rivals import one_thread
from kshot.trainer.statistics import accuracy_interval
from studies.common.results import Row as ResultRow
from studies.common.rows import read_rows
from studies.common.runner import SEED, say
from studies.pictures.contenders import Contender, Kind
from studies.pictures.sets import PictureSet, Task, draw_tasks
from studies.pictures.solvers import Open, Solved

# A result's `more` has them by contender: the key, and the right answers to each task.
KEPT = "tasks"
# What decides the tasks of a result; queries are per class.
TASK_KEYS = ("way", "shot", "queries", "tasks", "seed", "pictures_digest")
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class SetRow:
    """A line of `studies/rows/pictures.toml`: a set, the tasks drawn from it, and who answers.

    `task_counts` are those of each of the `shots`.
    """

    name: str
    title: str
    source: str
    way: int
    shots: tuple[int, ...]
    query_count: int
    task_counts: tuple[int, ...]
    contenders: tuple[str, ...]
    grouped: bool | None = None


# Reads the rows, by their names; `table` is one of the file's.
read_set_rows = partial(read_rows, "pictures", SetRow)


@dataclass(frozen=True)
class Trial:
    """A row at one number of examples per class."""

    row: SetRow
    shot: int
    task_count: int
    pictures: PictureSet

    @property
    def name(self) -> str:
        """Return the result's name."""
        return f"{self.row.name}-{self.shot}shot"

    @property
    def query_count(self) -> int:
        """Count the queries of a task."""
        return self.row.way * self.row.query_count

    @cached_property
    def tasks(self) -> Sequence[Task]:
        """Draw the tasks; raises `DataError` when the set is too small."""
        sizes = self.row.way, self.shot, self.row.query_count
        return draw_tasks(self.pictures, sizes, self.task_count, SEED)

    def deciding(self) -> Mapping[str, Any]:
        """Return what decides the tasks."""
        row = self.row
        sizes = (row.way, self.shot, row.query_count, self.task_count)
        return dict(zip(TASK_KEYS, (*sizes, SEED, self.pictures.digest), strict=True))

    def key(self, contender: Contender) -> str:
        """Return the digest of all that decides a contender's answers; raises `DataError`."""
        return answers_key(self.deciding(), contender)


def answers_key(tasks: Mapping[str, Any], contender: Contender) -> str:
    """Return the digest of tasks and contender, given what decides the tasks.

    Raises `DataError` when a bundle of the contender is not installed.
    """
    own = {**tasks, "tasks": min(tasks["tasks"], contender.task_count or tasks["tasks"])}
    deciding = json.dumps([own, contender.deciding()], sort_keys=True)
    return hashlib.sha256(deciding.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Measured:
    """A contender's right answers to each task, and how often it chose which model."""

    key: str
    correct: tuple[int, ...]
    chosen: Mapping[str, int]

    @staticmethod
    def of(key: str, solved: Sequence[Solved]) -> "Measured":
        """Summarize solved tasks."""
        models = Counter(one.model for one in solved if one.model)
        return Measured(key, tuple(one.correct for one in solved), dict(models))

    @staticmethod
    def read(document: Mapping[str, Any]) -> "Measured":
        """Read what `document` wrote."""
        return Measured(**{**document, "correct": tuple(map(int, document["correct"].split()))})

    def document(self) -> Mapping[str, Any]:
        """Return JSON's form; counts are words of one string, on one line of the file."""
        return {**asdict(self), "correct": " ".join(map(str, self.correct))}


def measure(trial: Trial, contender: Contender, make: Open, *, again: bool = False) -> Measured:
    """Solve a trial's tasks; those that a stopped run solved are taken from its part file."""
    key, tasks = trial.key(contender), trial.tasks[: contender.task_count]
    path = parts_folder() / f"{trial.name}--{contender.name}--{key}.jsonl"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if again:
        path.unlink(missing_ok=True)
    solved = _read_part(path)[: len(tasks)]
    if len(solved) < len(tasks):
        solver = make(trial.pictures)
        with (
            path.open("w") as part,
            Progress(f"{trial.name}: {contender.name}", "tasks") as progress,
        ):
            for one in solved:
                _write(part, one)
            for task in tasks[len(solved) :]:
                solved.append(solver.solve(task))
                _write(part, solved[-1])
                part.flush()
                progress.update(len(solved), len(tasks))
    return Measured.of(key, solved)


def result_rows(
    measured: Mapping[str, Measured], contenders: Mapping[str, Contender], query_count: int
) -> Sequence[ResultRow]:
    """Return a row for each contender: tasks, accuracy, and how far it is ahead.

    `ahead` is the paired difference of a served contender, on its tasks, to the rival, trivial or
    frozen, with the best mean; None for a rival, and where none competed.
    """
    rivals = [name for name in measured if contenders[name].kind != Kind.SERVED]
    best = max(rivals, key=lambda name: sum(measured[name].correct), default=None)
    rows = []
    for name, found in measured.items():
        interval = accuracy_interval(np.asarray(found.correct), query_count)
        served = contenders[name].kind == Kind.SERVED and best is not None
        ahead = _ahead(found, measured[best], query_count) if served and best else None
        rows.append(
            {
                "contender": name,
                "tasks": len(found.correct),
                "accuracy": round(interval.mean, 5),
                "ci95": round(interval.half_width, 5),
                "rival": best if ahead else None,
                "ahead": ahead and round(ahead.mean, 5),
                "ahead_ci95": ahead and round(ahead.half_width, 5),
            }
        )
    return rows


def _ahead(found: Measured, other: Measured, query_count: int) -> Any:  # noqa: ANN401 -- an Interval
    pairs = zip(found.correct, other.correct, strict=False)  # fewer tasks are the first
    first, second = zip(*pairs, strict=True)
    return paired_difference(*([count / query_count for count in of] for of in (first, second)))


@contextmanager
def left_out(what: str) -> Iterator[None]:
    """Say why a server refuses a task, such as for too many classes, and go on."""
    try:
        yield
    except InvalidArgumentError as error:
        say(f"{what}: left out; {error}")


def parts_folder() -> Path:
    """Return where the parts of stopped runs are kept."""
    return cache_folder() / "study-pictures"


@contextmanager
def one_core(*, held: bool = True) -> Iterator[None]:
    """Run the block with one thread, and hold it and the processes that it starts to one core.

    On macOS a process cannot be held to a core.
    """
    held = held and hasattr(os, "sched_setaffinity")
    before = os.sched_getaffinity(0) if held else set()
    threads = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    if held:
        os.sched_setaffinity(0, {max(before)})
    try:
        with one_thread():
            yield
    finally:
        if held:
            os.sched_setaffinity(0, before)
        if threads is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = threads


def _read_part(path: Path) -> list[Solved]:
    """Read the tasks that were solved; the last line of a killed run may be incomplete."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Solved(*json.loads(line)) for line in lines]


def _write(part: Any, solved: Solved) -> None:  # noqa: ANN401 -- an open file
    part.write(json.dumps([solved.correct, solved.model]) + "\n")
