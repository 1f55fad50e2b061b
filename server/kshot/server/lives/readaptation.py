"""Adapting again by itself: the kept support set, on the version that a model's name means now."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from kshot.server.call_context import current_call
from kshot.server.errors import AdaptationDiverged, InvalidRequest, ModelChanged
from kshot.server.event_log import log_event, short_id
from kshot.server.lives.model_maker import ModelMaker, keep_all
from kshot.server.predict.catalog import ServedModel, prepared_support_bytes
from kshot.server.request.digest import input_digest
from kshot.server.request.inputs import AdaptInput, SupportSet, TensorImages
from kshot.server.request.shared_work import SharedWork
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.store.kept_support import KeptImages

_MOST_FAILED = 1000
_NOT_KEPT = "its support set is not kept"


class Readaptation:
    """Adapts each model again once, whoever waits, and remembers of which that fails for good.

    The work goes on when its callers leave: a caller with a short deadline finds it done later.
    """

    def __init__(self, maker: ModelMaker) -> None:
        self._maker = maker
        self._runs: dict[str, SharedWork[None]] = {}  # by adapted model
        self._failed: OrderedDict[tuple[str, str], str] = OrderedDict()

    def problem(self, adapted: AdaptedModelRecord, model: ServedModel) -> str:
        """Say why a model cannot be adapted again to a version; empty if it may be tried."""
        if input_digest(model.bundle.manifest) != adapted.input_digest:
            return f"{model.full_name} prepares pictures in another way"
        if not adapted.support_kept:
            return _NOT_KEPT
        return self._failed.get((adapted.id, model.bundle.digest), "")

    async def adapt(self, adapted: AdaptedModelRecord, model: ServedModel) -> None:
        """Adapt a model again to a version, or wait for another call that began to."""
        if problem := self.problem(adapted, model):
            raise _changed(adapted, model, problem)
        own = adapted.id not in self._runs
        if own:
            run = SharedWork(lambda: self._adapt(adapted, model), lasting=True)
            self._runs[adapted.id] = run
            run.task.add_done_callback(lambda _task: self._runs.pop(adapted.id))
        await self._runs[adapted.id].wait(current_call(), own=own)

    async def _adapt(self, old: AdaptedModelRecord, model: ServedModel) -> None:
        maker = self._maker
        async with maker.admit():
            adapted = await maker.kept_models.get(old.id)
            if adapted.bundle_digest != old.bundle_digest:
                return
            images = prepared_support_bytes(adapted, model)
            async with maker.room.hold(adapted.size_bytes + images) as shrink_room:
                try:
                    task = await self._task(adapted, model)
                    shrink_room(images)
                    made = await maker.adapt_to_keep(task, [model], keep_all, Violations())
                except (InvalidRequest, AdaptationDiverged) as error:
                    self._note(adapted, model, str(error))
                    raise _changed(adapted, model, str(error)) from error
            options = replace(
                made.model.options,
                ttl=adapted.options.ttl,
                allow_partial=adapted.options.allow_partial,
            )
            record = replace(made.model, options=options, parent=adapted.id)
            await maker.kept_models.replace(adapted, record, made.arrays)
        log_event(
            "adapted_again",
            model=model.full_name,
            adapted_model=short_id(adapted.id),
            before=adapted.model_version,
        )

    async def _task(self, adapted: AdaptedModelRecord, model: ServedModel) -> AdaptInput:
        """Return the request to adapt again; what was read is dropped with this."""
        _, arrays = await self._maker.kept_models.read_whole(adapted.id)

        def make() -> AdaptInput:
            kept = arrays.kept_images()
            if kept is None:
                raise _changed(adapted, model, _NOT_KEPT)
            with current_call().measure("decode"):
                return readapt_task(adapted, kept, model)

        return await self._maker.workers.prepare(make)

    def _note(self, adapted: AdaptedModelRecord, model: ServedModel, problem: str) -> None:
        self._failed[adapted.id, model.bundle.digest] = problem
        while len(self._failed) > _MOST_FAILED:
            self._failed.popitem(last=False)


def readapt_task(adapted: AdaptedModelRecord, kept: KeptImages, model: ServedModel) -> AdaptInput:
    """Return the request that adapts a model again, to prepared images and their classes; blocks.

    It has the options of before, but takes all steps: the result stays.
    """
    asked = {**vars(adapted.options), "allow_partial": False}
    del asked["ttl"]  # it expires when it did
    packed, classes = kept
    images = packed.unpacked()
    sent = TensorImages("FP32", images.shape, images.data.cast("B"))
    support = SupportSet(sent, classes, adapted.class_names)
    return AdaptInput(model.full_name, support, asked)


def warn_if_adapted_again(adapted: AdaptedModelRecord, model: ServedModel) -> None:
    """Say in the answer that a model is not the one that its caller adapted.

    It is its own parent then.
    """
    warnings = current_call().query_warnings
    warning = (
        f"adapted_model: the version that it was made from is no longer served, so the server has "
        f"adapted it again, to {model.full_name}; answers may differ from earlier ones"
    )
    if adapted.parent == adapted.id and warning not in warnings:
        warnings.append(warning)


def _changed(adapted: AdaptedModelRecord, model: ServedModel, problem: str) -> ModelChanged:
    return ModelChanged(adapted.id, adapted.model, model.full_name, problem)
