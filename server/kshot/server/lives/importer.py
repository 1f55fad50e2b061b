"""Stores adapted models that arrive as exported files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from kshot.server.call_context import current_call
from kshot.server.limits.answers import AnswerRoom
from kshot.server.lives.exported_file import Find, read_exported
from kshot.server.lives.model_maker import ModelMaker
from kshot.server.lives.upload import UploadHeader, UploadLimits, collect
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord


@dataclass(frozen=True)
class Importer:
    """Imports files; `find_version` returns a served version that the caller may use.

    `template_bytes` are those of the largest template that a file may be compared with.
    """

    maker: ModelMaker
    answer_room: AnswerRoom
    find_version: Find
    template_bytes: int = 0

    async def store(self, header: UploadHeader, chunks: AsyncIterator[bytes]) -> AdaptedModelRecord:
        """Store the adapted model in a file that was exported."""
        maker, violations = self.maker, Violations()
        header.check(maker.ttl, violations)
        violations.check()
        config = maker.config
        limits = UploadLimits(config.max_message_bytes, config.message_timeout)
        content = await collect(chunks, limits)
        # It is parsed, and compared with what would be exported. Which template that takes is known
        # only then, and a call that waited twice could wait for others that do.
        await self.answer_room.hold_export(3 * len(content) + self.template_bytes)

        def work() -> tuple[AdaptedModelRecord, AdaptedArrays]:
            with current_call().measure("decode"):
                return read_exported(content, header, self.find_version, maker.ttl)

        adapted, arrays = await maker.workers.prepare(work)
        kept = await maker.kept_models.keep(adapted, arrays)
        current_call().adapted_model, current_call().model = kept.id, kept.model
        return kept
