"""A bundle evaluated on tasks: the tasks, the command, and what decides the answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from kshot.bundle import BatchNormMode, Bundle
from kshot.bundle.document import plain
from kshot.bundle.manifest import WEIGHTS_FILE
from kshot.trainer.commands.evaluate import command as kshot_evaluate
from kshot.trainer.commands.evaluation_request import EvaluateRequest
from kshot.trainer.commands.evaluation_session import Session, open_session
from kshot.trainer.evaluate.evaluator import Report
from kshot.trainer.output.progress import Progress
from studies.common.rows import read_rows
from studies.common.runner import SEED, Found, Options, Work

# The parts of a manifest that decide logits.
DECIDING = ("network", "input", "inner_loop", "batch_norm", "head", "scope")


@dataclass(frozen=True)
class Tasks:
    """Tasks of a bundle's test classes, or of another data set; `query_count` is per class."""

    way: int
    shot: int
    query_count: int
    task_count: int
    dataset: str | None = None
    split: str | None = None

    def deciding_answers(self, bundle: Bundle) -> Mapping[str, Any]:
        """Return what decides the answers to these tasks by a bundle's defaults.

        That is the weights, most of the manifest, and the tasks' temperatures by batch-norm mode.
        The card, the table of accuracies and other temperatures may change without it.
        """
        manifest = bundle.manifest
        return {
            "weights_digest": manifest.files[WEIGHTS_FILE].sha256,
            **{name: plain(getattr(manifest, name)) for name in DECIDING},
            "temperatures": {
                mode: manifest.temperature(mode, self.way, self.way * self.shot)
                for mode in manifest.batch_norm.allowed
            },
        }


@dataclass(frozen=True)
class Pair:
    """A built-in bundle and the tasks that its choices or its calibration are measured on."""

    name: str
    bundle: str
    title: str
    tasks: Tasks


# Reads the pairs of a study, by their names.
read_pairs = cache(partial(read_rows, "bundles", Pair))


@dataclass(frozen=True)
class Evaluation:
    """A bundle on tasks; `bundle_name` is its name in the command.

    `words` are further words of the command, and `deciding` is what decides the numbers beside the
    tasks. `adaptation` changes the bundle's defaults, as fields of `EvaluationSettings`.
    """

    name: str
    bundle: Bundle
    bundle_name: str
    tasks: Tasks
    words: Sequence[str]
    deciding: Mapping[str, Any]
    adaptation: Mapping[str, Any] = field(default_factory=dict)

    def work(self, measure: Callable[[Session, Report], Found], options: Options) -> Work:
        """Return the work of measuring this, on as many tasks as the options ask for.

        What is measured is what the words of the command ask for.
        """
        tasks = self.tasks
        sizes = {
            "way": tasks.way,
            "shot": tasks.shot,
            "queries": tasks.query_count,
            "tasks": options.task_count or tasks.task_count,
        }
        words = [self.bundle_name]
        if tasks.dataset is not None:
            words += ["--dataset", tasks.dataset, "--dataset-split", str(tasks.split)]
        for name, value in {**sizes, "seed": SEED, **self.adaptation}.items():
            words += [f"--{name.replace('_', '-')}", str(value)]

        def run() -> Found:
            context = kshot_evaluate.make_context("evaluate", list(words))
            where = {"data_folder": options.data_folder, "device": options.device.type}
            given = {**context.params, **where, "compiled": options.compiled}
            session = open_session(EvaluateRequest(**given), self.bundle)
            with Progress(f"{self.name}: adapting", "tasks") as shown:
                rows, more = measure(session, shown.update)
            return rows, {
                "data": session.dataset.name,
                "data_digest": session.dataset.digest,
                "split_digest": session.dataset.split_digest,
                "episodes_digest": session.episodes.digest,
                **more,
            }

        command = " ".join(["kshot evaluate", *words, *self.words])
        deciding = {**sizes, **self.adaptation, **self.deciding}
        return Work(self.name, command, deciding, run, self.bundle)


def measure_modes(
    modes: Sequence[BatchNormMode], columns: Sequence[str], session: Session, report: Report
) -> Found:
    """Adapt once and answer in every mode; a row for each, of these fields of its result.

    A field `diverged_count` is the column `diverged`.
    """
    evaluator, episodes = session.evaluator(), session.episodes
    found = evaluator.evaluate(session.settings, modes, episodes=episodes, report=report)
    rows = []
    for mode, result in found.items():
        fields = {name.removesuffix("_count"): getattr(result, name) for name in columns}
        rows.append({"batch_norm": mode.value, **fields})
    return rows, {}
