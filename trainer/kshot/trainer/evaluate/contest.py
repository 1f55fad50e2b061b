"""Bundles and trivial classifiers on the same tasks of test classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kshot.bundle import decode_image
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import reading
from kshot.trainer.evaluate.evaluator import Evaluator, Report, part_of
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.rivals.features import Features
from kshot.trainer.rivals.rivals import RIVALS, Labels, Rival, one_thread
from kshot.trainer.statistics import Interval, accuracy_interval
from kshot.trainer.tasks.episode_file import TaskShape, draw_episodes
from kshot.trainer.tasks.episodes import EpisodeBatch

# Trivial classifiers need no more of a photograph.
SIDE = 256
TASKS, QUERIES = 100, 15


@dataclass(frozen=True)
class Result:
    """The accuracies on tasks, 0..1, by examples per class."""

    title: str
    accuracies: Mapping[int, Sequence[float]]
    intervals: Mapping[int, Interval]

    def ahead_of(self, other: "Result") -> Mapping[int, Interval]:
        """Return the differences of the accuracies, paired over the tasks."""
        return {
            shot: paired_difference(own, other.accuracies[shot])
            for shot, own in self.accuracies.items()
        }

    @property
    def mean(self) -> float:
        """Return the mean accuracy over the numbers of examples."""
        return float(np.mean([each.mean for each in self.intervals.values()]))


def contest_tasks(dataset: ImageDataset, way: int, shots: Sequence[int]) -> Sequence[TaskShape]:
    """Return the tasks of a contest: as many queries as the smallest class has, at most 15."""
    fewest = int(dataset.class_offsets.diff().min())
    return [
        TaskShape(way, shot, min(QUERIES, fewest - shot), TASKS, 0)
        for shot in shots
        if shot < fewest
    ]


def bundle_result(
    title: str,
    evaluator: Evaluator,
    tasks: Sequence[TaskShape],
    report: Report = lambda _done, _total: None,
) -> Result:
    """Let a bundle solve the tasks by its defaults."""
    total = sum(of.task_count for of in tasks)
    mode = evaluator.manifest.batch_norm.default
    accuracies, intervals = {}, {}
    for number, of in enumerate(tasks):
        settings = EvaluationSettings(
            of.way, of.shot, of.query_count, of.task_count, mode, seed=of.seed
        )
        heard = part_of(report, number * of.task_count, total)
        (found,) = evaluator.evaluate(settings, report=heard).values()
        accuracies[of.shot] = found.task_accuracies
        intervals[of.shot] = Interval(found.accuracy, found.ci95, found.ci_method)
    return Result(title, accuracies, intervals)


def rival_results(
    dataset: ImageDataset,
    files: Sequence[Path],
    tasks: Sequence[TaskShape],
    report: Report = lambda _done, _total: None,
) -> Sequence[Result]:
    """Let every trivial classifier solve the tasks; `files` are the data set's, in its order.

    `report` hears of the pictures described so far. Raises `DataError` for a file that cannot be
    read.
    """
    drawn = {of.shot: draw_episodes(dataset, of).episodes for of in tasks}
    used = [each.numpy().ravel() for of in drawn.values() for each in (of.support, of.queries)]
    rows = np.unique(np.concatenate(used))
    described: dict[str, list[Features]] = {name: [] for name in RIVALS}
    for done, row in enumerate(rows, start=1):
        with reading(files[row]):
            picture = decode_image(files[row].read_bytes(), side=SIDE)
        for name, rival in RIVALS.items():
            described[name].append(rival.describe(picture))
        report(done, len(rows))
    place = np.zeros(dataset.image_count, np.int64)
    place[rows] = np.arange(len(rows))
    with one_thread():
        return [
            _rival_result(rival, np.stack(described[name]), place, drawn)
            for name, rival in RIVALS.items()
        ]


def _rival_result(
    rival: Rival, features: Features, place: Labels, drawn: Mapping[int, EpisodeBatch]
) -> Result:
    """Let a rival solve tasks; `place` `(images,)` is the row of an image's features."""
    accuracies, intervals = {}, {}
    for shot, episodes in drawn.items():
        right = []
        for number in range(len(episodes)):
            task = episodes[number]
            learned = rival.fit(features[place[task.support]], task.support_classes.numpy())
            answers = learned.predict_proba(features[place[task.queries]]).argmax(axis=1)
            right.append(int((answers == task.query_classes.numpy()).sum()))
        count = episodes.queries.shape[1]
        accuracies[shot] = [each / count for each in right]
        intervals[shot] = accuracy_interval(np.array(right), count)
    return Result(rival.title, accuracies, intervals)
