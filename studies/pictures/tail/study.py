"""Measure what the tail of `photos` gains, and the time it takes, beside its head alone.

python studies/pictures/tail/study.py --data DIR [--tasks 40] [--plans folds-of-12,20-steps]
python studies/pictures/tail/study.py --save

Adapts to the first tasks of each set of `studies/pictures/study.py`, with the steps of each plan:
the i-th task of every set before the next, so that a run may be stopped, and goes on where it was.
`--save` writes the result of the tasks that all sets have by now, with each task of what is
served; the pages are written by `studies/pictures/study.py --page`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from kshot.bundle import Bundle, RidgeRule
from kshot.trainer.commands.options import choose_data_folder, data_option
from kshot.trainer.errors import DataError, TrainerError
from studies.common.results import RESULTS, Result, provenance, result_path, write_result
from studies.common.runner import FOLDER, SEED, say
from studies.pictures.contenders import deciding, read_contenders
from studies.pictures.gathered import STUDY
from studies.pictures.measure import SetRow, one_core, parts_folder, read_set_rows
from studies.pictures.sets import draw_tasks, read_archive
from studies.pictures.summary import FIGURES
from studies.pictures.tables import REAL
from studies.pictures.tail.answers import PLANS, TailAnswers
from studies.pictures.tail.questions import Questions
from studies.pictures.tail.records import TailTask, write_tasks
from studies.pictures.tail.result import (
    KEPT,
    LEFT_OUT,
    SERVED,
    SHIPPED,
    TAILS,
    by_set,
    contender_of,
    tail_rows,
)

PHOTOS = "photos"
COMMAND = "python studies/pictures/tail/study.py --data DATA"
# Tasks of one example per class for each of five: they take a seventh of the time.
ONE_SHOT = 2
HEADS = (SHIPPED, LEFT_OUT)
PLANS_HELP = "Plans to measure, separated by commas.  [default: all]"
TASKS_HELP = "Tasks of a set with five examples per class; twice as many with one."


class Key(NamedTuple):
    """What was measured: a task of a set by its number, a plan, and a head."""

    name: str
    shot: int
    number: int
    plan: str
    head: str


@dataclass(frozen=True)
class Part:
    """What was measured so far: a line of a file for each task and plan."""

    path: Path

    def read(self) -> Mapping[Key, TailTask]:
        """Return the tasks that were measured."""
        found = {}
        for line in self.path.read_text().split("\n")[:-1] if self.path.exists() else []:
            key, values = json.loads(line)
            correct, losses = tuple(values.pop("correct")), tuple(values.pop("losses"))
            found[Key(*key)] = TailTask(correct=correct, losses=losses, **values)
        return found

    def mend(self) -> None:
        """Cut off what a killed run wrote of a line."""
        if self.path.exists():
            text = self.path.read_text()
            os.truncate(self.path, len(text[: text.rfind("\n") + 1].encode()))

    def add(self, key: Key, task: TailTask) -> None:
        """Write a task's line."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps([key, asdict(task)]) + "\n")


@click.command()
@data_option
@click.option("--tasks", "task_count", default=40, show_default=True, help=TASKS_HELP)
@click.option("--first", default=0, show_default=True, help="Leave so many of these out.")
@click.option("--plans", default="", metavar="NAMES", help=PLANS_HELP)
@click.option("--save", is_flag=True, help="Only write the result of what was measured.")
@click.option("--out", default=RESULTS, type=FOLDER, help="Folder of the results.")
def command(
    data_folder: Path | None, task_count: int, first: int, plans: str, save: bool, out: Path
) -> None:
    """Measure, or write the result."""
    names = [name.strip() for name in plans.split(",") if name.strip()]
    if unknown := set(names) - set(PLANS):
        raise click.UsageError(
            f"--plans: expected some of {', '.join(PLANS)}, got {', '.join(unknown)}"
        )
    try:
        (bundle,) = read_contenders()[PHOTOS].bundles()
        part = Part(parts_folder() / f"tail-{deciding_key(bundle)}.jsonl")
        if save:
            write(part, bundle, out)
            return
        with one_core(held=False):
            data = choose_data_folder(data_folder)
            measure(part, bundle, data, task_count, names or list(PLANS), first)
    except TrainerError as error:
        raise click.ClickException(str(error)) from error


def measure(
    part: Part,
    bundle: Bundle,
    data_folder: Path,
    task_count: int,
    plans: Sequence[str],
    first: int = 0,
) -> None:
    """Adapt to the tasks that `part` has not yet, a few of each set in turn."""
    part.mend()
    done, questions, shots = part.read(), Questions(bundle), tuple(SERVED)
    sets = {
        row.name: read_archive(data_folder / "pictures" / row.source, grouped=bool(row.grouped))
        for row in rows()
    }
    drawn = {
        (row.name, shot): draw_tasks(
            sets[row.name], (row.way, shot, row.query_count), task_count * per_task(shot), SEED
        )
        for row in rows()
        for shot in shots
    }
    rules = left_out_rules()
    for name, shot, number in order(list(sets), shots, first, task_count):
        wanted = [
            PLANS[plan]
            for plan in plans
            if PLANS[plan].folded == (shot > 1)
            and any(Key(name, shot, number, plan, head) not in done for head in HEADS)
        ]
        if not wanted:
            continue
        question = questions.of(sets[name], drawn[name, shot][number], rules[name])
        answers = TailAnswers(questions.spec, questions.start, question)
        for plan in wanted:
            for head, found in answers.by(plan).items():
                key = Key(name, shot, number, plan.name, head)
                if key not in done:
                    part.add(key, found)
                say(f"{', '.join(map(str, key))}: {found.right - found.head:+d}")


def per_task(shot: int) -> int:
    """Return how many tasks are measured for each one of five examples per class."""
    return ONE_SHOT if shot == 1 else 1


def order(
    names: Sequence[str], shots: Sequence[int], first: int, task_count: int
) -> Iterator[tuple[str, int, int]]:
    """Yield set, examples per class and number of tasks: any beginning has all sets alike."""
    for number in range(first, task_count):
        for shot in shots:
            count = per_task(shot)
            for again in range(count):
                for name in names:
                    yield name, shot, number * count + again


def left_out_rules() -> Mapping[str, Sequence[RidgeRule]]:
    """Return for each set the rules of the head that `choose.py` chose on all others."""
    document = json.loads(FIGURES.read_text())
    found: dict[str, list[RidgeRule]] = {}
    for shot in SERVED:
        for name, rule in document[f"{shot}-shot"]["rules"].items():
            found.setdefault(name, []).append(
                RidgeRule(**{**rule, "weights": tuple(rule["weights"])})
            )
    return found


def rows() -> Sequence[SetRow]:
    """Return the rows of the sets."""
    return list(read_set_rows(table=REAL).values())


def write(part: Part, bundle: Bundle, out: Path) -> None:
    """Write the result of the tasks that all sets have; raises `DataError` without any."""
    names, found = [row.name for row in rows()], part.read()
    kept: dict[tuple[int, str, str], dict[int, dict[str, TailTask]]] = {}
    for name, shot, number, plan, head in sorted(found):
        if all(Key(each, shot, number, plan, head) in found for each in names):
            tasks = kept.setdefault((shot, plan, head), {}).setdefault(number, {})
            tasks[name] = found[Key(name, shot, number, plan, head)]
    if not kept:
        raise DataError("expected a task of each set, got none; measure first")
    more = {
        KEPT: {
            f"{name}-{shot}shot {contender_of(plan, head)}": write_tasks(tasks)
            for (shot, plan, head), by_number in kept.items()
            if SERVED[shot] == plan
            for name, tasks in by_set(by_number).items()
        }
    }
    (query_count,) = {row.way * row.query_count for row in rows()}
    made_with = provenance(COMMAND, [SEED], torch.device("cpu"), bundle)
    settings = {"deciding": deciding_key(bundle), "queries": query_count}
    result = Result(STUDY, TAILS, made_with, settings, tail_rows(kept, query_count), more)
    write_result(result_path(STUDY, TAILS, out), result)


def deciding_key(bundle: Bundle) -> str:
    """Return the digest of what decides the answers of a bundle."""
    return hashlib.sha256(json.dumps(deciding(bundle), sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    command()
