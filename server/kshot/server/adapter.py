"""Takes candidates through their encoders and the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from kshot.server.adaptation import AdaptResult, adapt
from kshot.server.call_context import current_call
from kshot.server.choice import Candidate
from kshot.server.engine_link.client import TailTask
from kshot.server.engine_link.supervisor import EngineSupervisor
from kshot.server.predict.encodings import Encodings
from kshot.server.tail import TailReport, TailSpeed, look_ahead, may_adapt
from kshot.server.workers import Workers


@dataclass(frozen=True)
class Adapter:
    """Adapts candidates, one after another, for one call."""

    engine: EngineSupervisor
    encodings: Encodings
    workers: Workers

    async def adapt(self, candidate: Candidate) -> tuple[Candidate, AdaptResult]:
        """Adapt the only candidate, with what of its tail fits; its queries come back encoded."""
        encoded = await self._encode_support(candidate)
        spent = _spent()
        asked = await self.encode_queries(encoded)
        planned = await self._plan(asked, spent)
        return planned, await self._run(planned)

    async def adapt_head(self, candidate: Candidate) -> tuple[Candidate, AdaptResult]:
        """Adapt one candidate of several, without a tail, so that they compare soon."""
        encoded = await self._encode_support(candidate)
        return encoded, await self._run(encoded)

    async def refine(self, candidate: Candidate, adaptation: AdaptResult) -> AdaptResult:
        """Adapt the candidate that was chosen once more, if its tail has a plan that fits."""
        planned = await self._plan(candidate, _spent())
        outlook = planned.task.tail
        if outlook is None:
            return adaptation
        if outlook.plan is None:
            warnings = adaptation.warnings + planned.task.tail_warnings()
            return replace(adaptation, warnings=warnings, tail=TailReport.of(outlook))
        return replace(await self._run(planned), chosen_from=adaptation.chosen_from)

    async def encode_queries(self, candidate: Candidate) -> Candidate:
        """Encode the queries of a candidate if there are any and its model has an encoder."""
        if candidate.model.encoder is None or candidate.queries is None:
            return candidate
        queries = await self.encodings.encode(candidate.model.encoder, candidate.queries)
        return replace(candidate, queries=queries)

    async def _encode_support(self, candidate: Candidate) -> Candidate:
        """Give the engine the encoded support set if the model has an encoder."""
        task, encoder = candidate.task, candidate.model.encoder
        if encoder is None:
            return candidate
        support = await self.encodings.encode(encoder, task.images)
        encoded = await self.workers.prepare(partial(task.encoded, support))
        if not self._example_seconds(candidate):  # else crops need the images
            encoded = encoded.without_images()
        return replace(candidate, task=encoded)

    async def _plan(self, candidate: Candidate, spent: float) -> Candidate:
        """Plan how far the tail adapts, where it may, and make the crops; then drop the images."""
        encoder, example_seconds = candidate.model.encoder, self._example_seconds(candidate)
        if not example_seconds or encoder is None or encoder.maps is None:
            return candidate
        task, engine_task = candidate.task, candidate.task.engine_task
        outlook = look_ahead(
            engine_task.class_indices,
            TailSpeed(example_seconds, encoder.maps.seconds),
            engine_task.options.time_budget,
            spent,
            current_call().remaining(),
        )
        if (plan := outlook.plan) is not None:
            maps = await self.encodings.crop_maps(
                encoder.maps, task.images, plan.crop_count, engine_task.options.seed
            )
            tail = TailTask(plan.step_count, plan.fold_step_count, maps)
            engine_task = replace(engine_task, tail=tail)
        planned = replace(task.without_images(), engine_task=engine_task, tail=outlook)
        return replace(candidate, task=planned)

    def _example_seconds(self, candidate: Candidate) -> float:
        """Return the seconds of a tail's step for each example; 0 where no tail may adapt."""
        manifest, facts = candidate.model.bundle.manifest, self.engine.facts
        if facts is None or not may_adapt(manifest, candidate.task.engine_task.options):
            return 0
        return facts.tail_seconds.get(manifest.name, 0)

    async def _run(self, candidate: Candidate) -> AdaptResult:
        return await adapt(
            candidate.task, self.engine.adapt, candidate.model.predictor, self.workers
        )


def _spent() -> float:
    """Return the seconds that the current call has computed."""
    seconds = current_call().seconds
    return seconds["decode"] + seconds["compute"]
