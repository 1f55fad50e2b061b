"""Makes adapted models of requests: checks them, adapts in bounds, stores the result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from kshot.server.access.quotas import Quotas
from kshot.server.adaptation import AdaptResult
from kshot.server.adapter import Adapter
from kshot.server.admission import Admission, ImageRoom, ShrinkRoom
from kshot.server.call_context import current_call, current_progress
from kshot.server.checked_task import check_task
from kshot.server.choice import Candidate, adapt_best, find_candidates
from kshot.server.config import ServerConfig
from kshot.server.engine_link.library_versions import library_versions
from kshot.server.engine_link.pool import EnginePool
from kshot.server.predict.catalog import ServedModel
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.prediction import Floats
from kshot.server.progress import Stage
from kshot.server.request.decoders import Decoders
from kshot.server.request.digest import input_digest
from kshot.server.request.images import SUPPORT_IMAGES, PixelBudget, SharedImages, thumbnails
from kshot.server.request.inputs import AdaptInput
from kshot.server.request.options import TtlLimits
from kshot.server.request.violations import Violations
from kshot.server.store.kept_models import KeptModels
from kshot.server.store.store import RequestOf
from kshot.server.workers import Workers

Check = Callable[[ServedModel, Violations, PixelBudget], Candidate]
Remember = Callable[[AdaptResult], RequestOf]


@dataclass(frozen=True)
class ModelMaker:
    """Adapts for all calls that ask for it, whatever they send; raises `RequestError`s."""

    config: ServerConfig
    engine: EnginePool
    kept_models: KeptModels
    workers: Workers
    encodings: Encodings
    decoders: Decoders
    queue: Admission
    room: ImageRoom
    quotas: Quotas

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Hold a place in the queue inside the block, charged to the tenant."""
        await self.quotas.check_adapting()
        with self.queue.admit(), self.quotas.count_adapting():
            yield

    async def adapt_to_keep(
        self,
        task: AdaptInput,
        models: Sequence[ServedModel],
        shrink_room: ShrinkRoom,
        violations: Violations,
    ) -> AdaptResult:
        """Adapt the best of the models that the task fits, for a model that is stored."""

        def check(model: ServedModel, noted: Violations, budget: PixelBudget) -> Candidate:
            return Candidate(model, check_task(task, model, self.ttl, budget, noted))

        _, adaptation = await self.adapt(task, models, check, shrink_room, violations)
        return adaptation

    async def adapt(
        self,
        task: AdaptInput,
        models: Sequence[ServedModel],
        check: Check,
        shrink_room: ShrinkRoom,
        violations: Violations,
    ) -> tuple[Candidate, AdaptResult]:
        """Adapt the best of the models that the task fits, and warn of the support set."""
        shared = SharedImages.of([model.bundle.manifest for model in models])

        def prepare() -> list[Candidate]:
            def checked(model: ServedModel, noted: Violations) -> Candidate:
                return check(model, noted, self.budget(shared))

            with current_call().measure("decode"):
                candidates = find_candidates(models, checked, violations)
            shared.prepared.clear()  # the candidates have theirs
            return candidates

        async def looks() -> Floats | None:
            images = task.support_set.images
            return await self.workers.prepare(lambda: thumbnails(images, shared, SUPPORT_IMAGES))

        enter(Stage.PREPARING)
        candidates = await self.workers.prepare(prepare)
        adapter = Adapter(self.engine, self.encodings, self.workers, shrink_room)
        if len(candidates) == 1:
            chosen, adaptation = await adapter.adapt(candidates.pop())
        else:
            # Without a name for the best: it has its images until `refine` drops them.
            chosen, adaptation = await adapter.refine(
                *await adapt_best(candidates, looks, adapter.adapt_head)
            )
        chosen.warn()
        current_call().support_warnings += adaptation.warnings
        record = replace(
            adaptation.model,
            model_version=chosen.model.bundle.manifest.version,
            input_digest=input_digest(chosen.model.bundle.manifest),
            library_versions=library_versions(self.engine.facts),
        )
        return chosen, replace(adaptation, model=record)

    async def keep(self, adaptation: AdaptResult, remember: Remember | None) -> AdaptResult:
        """Store an adapted model, with what `remember` makes of the result."""
        enter(Stage.STORING)
        request = None if remember is None else remember(adaptation)
        kept = await self.kept_models.keep(adaptation.model, adaptation.arrays, request)
        current_call().adapted_model = kept.id
        return replace(adaptation, model=kept)

    @property
    def ttl(self) -> TtlLimits:
        """Return how long an adapted model may be kept."""
        return TtlLimits(self.config.default_ttl, self.config.max_ttl)

    def budget(self, shared: SharedImages) -> PixelBudget:
        """Return the pixels that a request may have for one model."""
        config = self.config
        most = config.max_image_pixels, config.max_request_pixels
        return PixelBudget(*most, shared, self.decoders)


def enter(stage: Stage) -> None:
    """Tell whoever asks for the progress of this call's adaptation that a stage begins."""
    if (progress := current_progress()) is not None:
        progress.enter(stage)


def keep_all(_size_bytes: int) -> None:
    """Give no room back: prepared images that were sent as such stay until the model is made."""
