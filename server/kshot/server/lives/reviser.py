"""Adapts anew to changed support sets of adapted models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kshot.server.adaptation import AdaptResult
from kshot.server.admission import room_bytes
from kshot.server.call_context import current_call
from kshot.server.errors import EtagMismatch, SupportNotKept
from kshot.server.lives.model_maker import ModelMaker, Remember, keep_all
from kshot.server.lives.revised_task import revised_task
from kshot.server.lives.revision import Revision, check_change_count
from kshot.server.predict.catalog import ServedModel, prepared_support_bytes
from kshot.server.request.images import SharedImages
from kshot.server.request.inputs import AdaptInput
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedModelRecord


@dataclass(frozen=True)
class Reviser:
    """Revises adapted models; `serving` returns the version of one that its caller may use."""

    maker: ModelMaker
    serving: Callable[[AdaptedModelRecord], ServedModel]

    async def revise(
        self, revision: Revision, violations: Violations, remember: Remember | None
    ) -> AdaptResult:
        """Adapt to the changed support set, and store the result beside the old model."""
        maker = self.maker
        async with maker.admit():
            if not check_id(revision.adapted_model, violations):
                violations.check()
            adapted = await maker.kept_models.get(revision.adapted_model)
            current_call().adapted_model, current_call().model = adapted.id, adapted.model
            if revision.etag not in ("", adapted.etag):
                raise EtagMismatch(adapted.id, adapted.etag)
            model = self.serving(adapted)
            if not check_change_count(revision, model.bundle.manifest.limits, violations):
                violations.check()
            # The file, the images in one array, and those added before they are in it.
            added = room_bytes([model], revision.added.images)
            together = prepared_support_bytes(adapted, model) + added
            async with maker.room.hold(adapted.size_bytes + together + added) as shrink_room:
                task = await self._task(adapted, revision, model, violations)
                shrink_room(together)
                adaptation = await maker.adapt_to_keep(task, [model], keep_all, violations)
            parent = replace(adaptation.model, parent=adapted.id)
            return await maker.keep(replace(adaptation, model=parent), remember)

    async def _task(
        self,
        adapted: AdaptedModelRecord,
        revision: Revision,
        model: ServedModel,
        violations: Violations,
    ) -> AdaptInput:
        """Return the request that stands for the revision; what was read is dropped with this."""
        _, arrays = await self.maker.kept_models.read_whole(adapted.id)

        def make() -> AdaptInput:
            kept = arrays.kept_images()
            if kept is None:
                raise SupportNotKept(adapted.id, "it cannot be revised")
            rules = self.maker.budget(SharedImages()), self.maker.ttl
            with current_call().measure("decode"):
                return revised_task(adapted, kept, revision, model, rules, violations)

        return await self.maker.workers.prepare(make)
