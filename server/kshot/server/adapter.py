"""Takes candidates through their encoders and the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial

from kshot.server.adaptation import AdaptResult, adapt
from kshot.server.admission import ShrinkRoom
from kshot.server.call_context import current_call, seconds_to_spare
from kshot.server.choice import Candidate
from kshot.server.engine_link.client import Floats, TailTask
from kshot.server.engine_link.pool import EnginePool
from kshot.server.errors import DeadlineExceeded, DeviceMemoryFull, EngineUnavailable
from kshot.server.predict.encoder import Maps
from kshot.server.predict.encodings import Encodings
from kshot.server.tail import TailPlan, TailReport, TailSpeed, look_ahead, may_adapt, unfinished
from kshot.server.workers import Workers


@dataclass(frozen=True)
class Adapter:
    """Adapts candidates, one after another, for one call.

    Images are many times larger than what encoders make of them, and a call may wait long for the
    engine. So nobody holds them any more then, if a caller hands over its only reference to a
    candidate; and the call shrinks its room for images.
    """

    engine: EnginePool
    encodings: Encodings
    workers: Workers
    shrink_room: ShrinkRoom

    async def adapt(self, candidate: Candidate) -> tuple[Candidate, AdaptResult]:
        """Adapt the only candidate, with what of its tail fits; its queries come back encoded."""
        candidate = await self._encode_support(candidate)
        spent = _spent()
        candidate = await self._encode_queries(candidate)
        candidate = await self._plan(candidate, spent)
        self._shrink_room(candidate)
        return candidate, await self._run(candidate)

    async def adapt_head(self, candidate: Candidate) -> tuple[Candidate, AdaptResult]:
        """Adapt one candidate of several, without a tail, so that they compare soon."""
        candidate = await self._encode_support(candidate)
        return candidate, await self._run(candidate)

    async def refine(
        self, candidate: Candidate, adaptation: AdaptResult
    ) -> tuple[Candidate, AdaptResult]:
        """Adapt the candidate that was chosen once more, if its tail has a plan that fits.

        Its queries come back encoded. Whatever goes wrong costs the tail alone.
        """
        spent = _spent()
        candidate = await self._encode_queries(candidate)
        candidate = await self._plan(candidate, spent)
        self._shrink_room(candidate)
        outlook = candidate.task.tail
        if outlook is None:
            return candidate, adaptation
        warnings = candidate.task.tail_warnings()
        if outlook.plan is not None:
            try:
                async with asyncio.timeout(seconds_to_spare(current_call().remaining())):
                    refined = await self._run(candidate)
                return candidate, replace(refined, chosen_from=adaptation.chosen_from)
            except (TimeoutError, DeadlineExceeded, EngineUnavailable, DeviceMemoryFull) as error:
                warnings = (unfinished(error),)
                late = isinstance(error, (TimeoutError, DeadlineExceeded))
                allowed = candidate.task.engine_task.options.allow_partial
                adaptation = replace(adaptation, partial=late and allowed)
        warnings = adaptation.warnings + warnings
        return candidate, replace(adaptation, warnings=warnings, tail=TailReport.of(outlook))

    async def _encode_queries(self, candidate: Candidate) -> Candidate:
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
        spec = candidate.model.bundle.manifest.input
        encoded = await self.workers.prepare(partial(task.encoded, support, spec))
        example_seconds = self._example_seconds(candidate)
        if example_seconds:  # crops need the images
            encoded = replace(encoded, tail_example_seconds=example_seconds)
        else:
            encoded = encoded.without_images()
        return replace(candidate, task=encoded)

    async def _plan(self, candidate: Candidate, spent: float) -> Candidate:
        """Plan how far the tail adapts, where it may, and make the crops; then drop the images."""
        task, encoder = candidate.task, candidate.model.encoder
        if not task.tail_example_seconds or encoder is None or encoder.maps is None:
            return candidate
        engine_task = task.engine_task
        outlook = look_ahead(
            engine_task.class_indices,
            TailSpeed(task.tail_example_seconds, encoder.maps.seconds),
            engine_task.options,
            spent,
            current_call().remaining(),
        )
        if (plan := outlook.plan) is not None:
            try:
                maps = await self._crop_maps(candidate, encoder.maps, plan)
            except (TimeoutError, DeadlineExceeded):
                outlook = outlook.too_late()
            else:
                tail = TailTask(plan.step_count, plan.fold_step_count, maps)
                engine_task = replace(engine_task, tail=tail)
        planned = replace(task.without_images(), engine_task=engine_task, tail=outlook)
        return replace(candidate, task=planned)

    async def _crop_maps(self, candidate: Candidate, maps: Maps, plan: TailPlan) -> Floats:
        """Make the maps of the crops; raise `TimeoutError` while there is time for the head."""
        images, seed = candidate.task.images, candidate.task.engine_task.options.seed
        async with asyncio.timeout(seconds_to_spare(current_call().remaining())):
            return await self.encodings.crop_maps(maps, images, plan.crop_count, seed)

    def _shrink_room(self, candidate: Candidate) -> None:
        """Keep room for crops and packed images alone, if an encoder has taken the images."""
        if candidate.model.encoder is not None:
            tail, packed = candidate.task.engine_task.tail, candidate.task.packed
            crops = 0 if tail is None else tail.crop_maps.nbytes
            self.shrink_room(crops + (0 if packed is None else packed.size_bytes))

    def _example_seconds(self, candidate: Candidate) -> float:
        """Return the seconds of a tail's step for each example; 0 where no tail may adapt."""
        bundle = candidate.model.bundle
        if not may_adapt(bundle.manifest, candidate.task.engine_task.options):
            return 0
        return self.engine.tail_seconds.get(bundle.digest, 0)

    async def _run(self, candidate: Candidate) -> AdaptResult:
        return await adapt(
            candidate.task, self.engine.adapt, candidate.model.predictor, self.workers
        )


def _spent() -> float:
    """Return the seconds that the current call has computed."""
    seconds = current_call().seconds
    return seconds["decode"] + seconds["compute"]
