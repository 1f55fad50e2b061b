"""Bundles in this process: the code of front and engine, on pictures that are encoded once."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kshot.bundle import THUMBNAIL, Bundle, prepare, useful_side
from kshot.client.shrinking import any_large, shrink_file
from kshot.engine.models import load_model
from kshot.engine.slot_tasks import finish, slot_task
from kshot.engine.task import EngineTask as Job
from kshot.engine.task import StopReason
from kshot.learner import SlotResult
from kshot.server.adaptation import AdaptResult, adapt
from kshot.server.call_context import begin_call
from kshot.server.checked_task import task_for
from kshot.server.choice import Candidate, adapt_best
from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.predict.catalog import Catalog
from kshot.server.predict.prediction import Answers, Question, with_known_scores
from kshot.server.request.options import OPTION_TYPES, Bounds, TtlLimits, resolve_options
from kshot.server.request.violations import Violations
from kshot.server.workers import Workers
from studies.pictures.features import FeatureEncoder
from studies.pictures.sets import PictureSet, Rows, Task

Floats = npt.NDArray[np.float32]
LOOKED_AT = 16  # pictures at most that tell a server whether a support set is of drawings
UNSEEN = (1, 1, 1)  # images that only decide which examples are noted


@dataclass(frozen=True)
class Shown:
    """A set of pictures as the networks of some bundles take it, `(n, *shape)` by their names."""

    pictures: Sequence[bytes]
    inputs: Mapping[str, Floats]


class InProcess:
    """Adapts the heads of bundles that take no inner step by default, and answers.

    All that a server does from prepared pictures on is done by its own functions. Where there are
    several bundles, they are compared as the server does when no model is named.
    """

    def __init__(self, bundles: Sequence[Bundle], options: Mapping[str, Any] | None = None) -> None:
        """Open bundles, adapted with these options; raises `BundleError`."""
        self._options = {name: OPTION_TYPES[name](of) for name, of in (options or {}).items()}
        self._catalog = Catalog.load([bundle.path for bundle in bundles])
        models = [load_model(bundle, torch.device("cpu")) for bundle in bundles]
        self._models = {model.name: model for model in models}
        self._runner, self._workers = asyncio.Runner(), Workers()
        torch.set_num_threads(1)

    def show(self, pictures: PictureSet) -> Shown:
        """Prepare all pictures of a set, and encode them for bundles with an encoder.

        Large ones are first made smaller, as the client does.
        """
        inputs: dict[str, Floats] = {}
        sides = [useful_side(model.bundle.manifest.input) for model in self._models.values()]
        if any_large(pictures.pictures) and all(sides):
            smaller = tuple(shrink_file(data, max(sides)) for data in pictures.pictures)
            pictures = replace(pictures, pictures=smaller)
        for name, model in self._models.items():
            bundle = model.bundle
            if bundle.encoder_path is None:
                inputs[name] = prepare(pictures.pictures, bundle.manifest.input)
            else:
                features = FeatureEncoder.of_bundle(bundle).of_set(pictures)
                inputs[name] = features.reshape(-1, *bundle.manifest.network_input_shape)
        return Shown(pictures.pictures, inputs)

    def adapt(self, shown: Shown, task: Task, *, scored: bool = False) -> AdaptResult:
        """Adapt to a task's support set: the result names the model that was chosen.

        Where queries are to be `scored`, it has what known scores are made of.
        """
        names = tuple(map(str, range(int(task.support_labels.max()) + 1)))
        seen = task.support[:: -(-len(task.support) // LOOKED_AT)]

        async def looks() -> Floats:
            return prepare([shown.pictures[row] for row in seen], THUMBNAIL)

        async def run(candidate: Candidate) -> tuple[Candidate, AdaptResult]:
            predictor = candidate.model.predictor
            return candidate, await adapt(candidate.task, self._engine, predictor, self._workers)

        async def choose() -> AdaptResult:
            begin_call("Adapt")
            candidates = []
            for model in self._catalog:
                name, manifest = model.bundle.manifest.name, model.bundle.manifest
                support = shown.inputs[name][task.support]
                bounds = Bounds(manifest, len(names), len(support), TtlLimits(0, 0))
                options = resolve_options(
                    {"estimate": scored, **self._options}, bounds, Violations()
                )
                labels = tuple(task.support_labels.tolist())
                job = EngineTask(name, model.bundle.digest, support, labels, len(names), options)
                unseen = np.zeros((len(support), *UNSEEN), np.float32)
                candidates.append(Candidate(model, task_for(manifest, job, names, unseen)))
            _, found = await adapt_best(candidates, looks, run)
            return found

        return self._runner.run(choose())

    def answer(self, shown: Shown, adapted: AdaptResult, queries: Rows) -> Answers:
        """Answer rows of the set, with known scores where the adapted model has them."""
        model, mode = self._catalog.find(adapted.model.model), adapted.model.options.batch_norm_mode
        inputs = shown.inputs[adapted.model.model][queries]
        question = Question(model, adapted.arrays, mode)
        return with_known_scores(question.read(question.run(inputs)), adapted.arrays)

    def close(self) -> None:
        """End the threads."""
        self._runner.run(self._workers.close())
        self._runner.close()

    async def _engine(self, task: EngineTask, _seconds: float | None) -> EngineResult:
        """Make the head of a task, as the engine does."""
        model, options, began = self._models[task.model], task.options, time.perf_counter()
        job = Job(
            task.support,
            np.asarray(task.class_indices),
            task.way,
            options.step_count,
            options.learning_rate,
            options.batch_size,
            options.preconditioner,
            options.head,
            options.scope,
            options.seed,
        )
        started = slot_task(model, job)
        made = SlotResult(started.state.parameters[0], torch.empty(0), 0)
        of = finish(
            model, task.way, started, made, StopReason.COMPLETED, began=began, compute_path=""
        )
        return EngineResult(
            of.parameters,
            of.statistics,
            of.step_count,
            of.stop_reason.name,
            of.support_losses,
            of.support_accuracy,
            of.compute_seconds,
            of.compute_path,
            of.slot_bucket,
            of.held_out_logits,
        )
