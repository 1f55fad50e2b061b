"""The work behind each RPC, free of protobuf and gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np

from kshot.bundle import BatchNormMode
from kshot.server.access.quotas import Quotas
from kshot.server.adaptation import AdaptResult
from kshot.server.adapter import Adapter
from kshot.server.admission import Admission, ImageRoom, ShrinkRoom, room_bytes
from kshot.server.call_context import current_call
from kshot.server.checked_task import check_task, check_task_alone
from kshot.server.choice import Candidate, adapt_best, find_candidates
from kshot.server.config import ServerConfig
from kshot.server.engine_link.library_versions import library_versions
from kshot.server.engine_link.pool import EnginePool
from kshot.server.errors import (
    AdaptationDiverged,
    EtagMismatch,
    InvalidRequest,
    ModelChanged,
    ModelNotFound,
    SupportNotKept,
)
from kshot.server.event_log import log_event, short_id
from kshot.server.limits.answers import AnswerRoom
from kshot.server.lives.exported_file import read_exported
from kshot.server.lives.readaptation import (
    Readapting,
    readapt_task,
    readapted_warning,
    was_adapted_again,
)
from kshot.server.lives.revised_task import revised_task
from kshot.server.lives.revision import Revision, check_change_count
from kshot.server.lives.upload import UploadHeader, UploadLimits, collect
from kshot.server.predict.batches import MAX_BATCH_IMAGES, Batches, Request, few_alone, may_join
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.export import export_model, template_bytes
from kshot.server.predict.prediction import (
    Answers,
    CostLimits,
    Floats,
    Question,
    answer,
    check_cost,
    check_kept,
    check_mode,
    check_rejection,
    prepare_queries,
    scored,
)
from kshot.server.predict.predictor import images_per_query
from kshot.server.request.decoders import Decoders
from kshot.server.request.digest import input_digest
from kshot.server.request.grounds import (
    SupportGrounds,
    grounds_of,
    query_ground_warnings,
)
from kshot.server.request.images import (
    QUERIES,
    SUPPORT_IMAGES,
    PixelBudget,
    SharedImages,
    check_sent,
    image_count,
    thumbnails,
)
from kshot.server.request.inputs import AdaptInput, Images, PredictInput
from kshot.server.request.list_filter import parse_filter
from kshot.server.request.options import TtlLimits
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.kept_models import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, KeptModels
from kshot.server.store.store import RequestOf
from kshot.server.workers import Workers

# Each may hold a message of the greatest size.
_MAX_IMPORTS = 16

Check = Callable[[ServedModel, Violations, PixelBudget], Candidate]
Remember = Callable[[AdaptResult], RequestOf]


@dataclass(frozen=True)
class Front:
    """The parts that all calls share; its methods raise `RequestError`s.

    Each takes the violations found so far, adds its own, and raises them all.
    """

    config: ServerConfig
    catalog: Catalog
    engine: EnginePool
    kept_models: KeptModels
    workers: Workers
    batches: Batches[Answers]
    encodings: Encodings
    decoders: Decoders
    adapting: Admission
    predicting: Admission
    adapting_room: ImageRoom = field(default_factory=ImageRoom)
    predicting_room: ImageRoom = field(default_factory=ImageRoom)
    support_grounds: SupportGrounds = field(default_factory=SupportGrounds)
    answer_room: AnswerRoom = field(default_factory=AnswerRoom)
    quotas: Quotas = field(default_factory=Quotas)
    importing: Admission = field(default_factory=lambda: Admission(_MAX_IMPORTS))
    readapting: Readapting = field(default_factory=Readapting)

    @property
    def models(self) -> list[ServedModel]:
        """Return the served models that the caller may use."""
        allows = self.quotas.limits.allows
        return [model for model in self.catalog if allows(model.bundle.manifest.name)]

    @property
    def named_models(self) -> dict[str, ServedModel]:
        """Return the served versions that the caller may use, by their names in requests."""
        allows = self.quotas.limits.allows
        return {
            name: model
            for name, model in self.catalog.by_name.items()
            if allows(model.bundle.manifest.name)
        }

    def find_model(self, name: str) -> ServedModel:
        """Return a served model; raise `ModelNotFound` if it is none that the caller may use."""
        if name in self.catalog and self.quotas.limits.allows(name.partition("@")[0]):
            return self.catalog.find(name)
        raise ModelNotFound(name, sorted(self.named_models))

    async def adapt(
        self, task: AdaptInput, violations: Violations, remember: Remember | None = None
    ) -> AdaptResult:
        """Adapt and store the adapted model, with what `remember` makes of the result."""
        await self.quotas.check_adapting()
        with self.adapting.admit(), self.quotas.count_adapting():
            models = await self._find(task, violations)
            room = room_bytes(models, task.support_set.images)
            async with self.adapting_room.hold(room) as shrink_room:
                adaptation = await self._adapt_to_keep(task, models, shrink_room, violations)
            return await self._keep(adaptation, remember)

    async def revise(
        self, revision: Revision, violations: Violations, remember: Remember | None = None
    ) -> AdaptResult:
        """Adapt anew to the changed support set of an adapted model, and store the result."""
        await self.quotas.check_adapting()
        with self.adapting.admit(), self.quotas.count_adapting():
            if not check_id(revision.adapted_model, violations):
                violations.check()
            adapted = await self.kept_models.get(revision.adapted_model)
            current_call().adapted_model, current_call().model = adapted.id, adapted.model
            if revision.etag not in ("", adapted.etag):
                raise EtagMismatch(adapted.id, adapted.etag)
            model = self.catalog.serving(adapted)
            self.find_model(adapted.model)  # which the caller may use no more, perhaps
            if not check_change_count(revision, model.bundle.manifest.limits, violations):
                violations.check()
            # Pixels become four times as many bytes.
            room = 5 * adapted.size_bytes + room_bytes([model], revision.added.images)
            async with self.adapting_room.hold(room):
                task = await self._revised(adapted, revision, model, violations)
                adaptation = await self._adapt_to_keep(task, [model], _keep_all, violations)
            parent = replace(adaptation.model, parent=adapted.id)
            return await self._keep(replace(adaptation, model=parent), remember)

    async def _revised(
        self,
        adapted: AdaptedModelRecord,
        revision: Revision,
        model: ServedModel,
        violations: Violations,
    ) -> AdaptInput:
        _, arrays = await self.kept_models.read_whole(adapted.id)

        def make() -> AdaptInput:
            kept = arrays.kept_images()
            if kept is None:
                raise SupportNotKept(adapted.id, "it cannot be revised")
            rules = self._budget(SharedImages()), self._ttl
            with current_call().measure("decode"):
                return revised_task(adapted, kept, revision, model, rules, violations)

        return await self.workers.prepare(make)

    async def _adapt_to_keep(
        self,
        task: AdaptInput,
        models: Sequence[ServedModel],
        shrink_room: ShrinkRoom,
        violations: Violations,
    ) -> AdaptResult:
        def check(model: ServedModel, noted: Violations, budget: PixelBudget) -> Candidate:
            return Candidate(model, check_task(task, model, self._ttl, budget, noted))

        _, adaptation = await self._adapt(task, models, check, shrink_room, violations)
        return adaptation

    async def _keep(self, adaptation: AdaptResult, remember: Remember | None) -> AdaptResult:
        request = None if remember is None else remember(adaptation)
        kept = await self.kept_models.keep(adaptation.model, adaptation.arrays, request)
        current_call().adapted_model = kept.id
        return replace(adaptation, model=kept)

    @property
    def _ttl(self) -> TtlLimits:
        return TtlLimits(self.config.default_ttl, self.config.max_ttl)

    async def adapt_and_predict(
        self,
        task: AdaptInput,
        query: PredictInput,
        violations: Violations,
    ) -> tuple[AdaptResult, Answers]:
        """Adapt, classify queries, store nothing."""
        await self.quotas.check_adapting()
        with self.adapting.admit(), self.quotas.count_adapting():
            if "ttl" in task.options:
                violations.add("options.ttl", "must not be set: AdaptAndPredict keeps no model")
                others = {name: task.options[name] for name in task.options if name != "ttl"}
                task = replace(task, options=others)
            models = await self._find(task, violations, query)
            limits = [each.bundle.manifest.limits for each in models]
            await self.answer_room.hold(query, task.support_set.class_names, limits, violations)

            def check(model: ServedModel, noted: Violations, budget: PixelBudget) -> Candidate:
                checked = check_task(task, model, TtlLimits(0, 0), budget, noted)
                support, options = checked.engine_task.support, checked.engine_task.options
                self._check_cost(query, model, len(support), options.batch_norm_mode, noted)
                return Candidate(
                    model, checked, prepare_queries(query.queries, model, budget, noted)
                )

            room = room_bytes(models, task.support_set.images, query.queries)
            async with self.adapting_room.hold(room) as shrink_room:
                chosen, adaptation = await self._adapt(task, models, check, shrink_room, violations)
                queries = cast(Floats, chosen.queries)
                mode, arrays = adaptation.model.options.batch_norm_mode, adaptation.arrays
                question = Question(chosen.model, arrays, mode)
                answers = await answer(question, lambda: queries, self.workers)
                answers = await scored(answers, arrays, query.reject_below, self.workers)
            return adaptation, answers

    async def predict(
        self, adapted_model: str, query: PredictInput, violations: Violations
    ) -> tuple[AdaptedModelRecord, Answers]:
        """Classify queries with an adapted model."""
        with self.predicting.admit():
            if not check_id(adapted_model, violations):
                check_sent(query.queries, QUERIES, violations)
                violations.check()
            adapted, arrays, model = await self.read(adapted_model)
            limits = [model.bundle.manifest.limits]
            await self.answer_room.hold(query, adapted.class_names, limits, violations)
            mode = query.mode or adapted.options.batch_norm_mode

            support_count, budget = len(arrays.support), self._budget(SharedImages())

            def prepare() -> Floats:
                with current_call().measure("decode"):
                    check_mode(query.mode, model, violations)
                    check_rejection(query.reject_below, arrays, violations)
                    self._check_cost(query, model, support_count, mode, violations)
                    queries = prepare_queries(query.queries, model, budget, violations)
                    violations.check()
                    check_kept(question, adapted.id)
                    manifest = model.bundle.manifest
                    grounds = self.support_grounds.of(adapted.id, arrays.support, manifest)
                    found = query_ground_warnings(grounds, grounds_of(queries, manifest))
                    current_call().query_warnings += found
                    return queries

            question = Question(model, arrays, mode)
            async with self.predicting_room.hold(room_bytes([model], None, query.queries)):
                answers = await self._answer(query.queries, adapted, question, prepare)
            if mode is adapted.options.batch_norm_mode:  # the references are of this mode
                answers = await scored(answers, arrays, query.reject_below, self.workers)
            return adapted, answers

    async def page(
        self, page_size: int, page_token: str, model: str, text: str = ""
    ) -> tuple[Sequence[AdaptedModelRecord], str]:
        """Return a page of records as `KeptModels.page` does, of few where names are long.

        `text` is the filter.
        """
        wanted = parse_filter(text)
        if page_size >= 0:
            size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
            page_size = await self.answer_room.hold_page(size, self.catalog.max_way)
        return await self.kept_models.page(page_size, page_token, model, wanted)

    async def delete(self, adapted_model: str) -> None:
        """Delete an adapted model, and what is known of its support set."""
        await self.kept_models.delete(adapted_model)
        self.support_grounds.discard(adapted_model)

    async def delete_tenant(self, tenant: str) -> int:
        """Erase all that is kept of a tenant; return the number of its adapted models."""
        try:
            return await self.kept_models.delete_tenant(tenant)
        finally:  # predictions went on meanwhile
            self.support_grounds.discard()

    async def export(
        self, adapted_model: str, mode: BatchNormMode | None, violations: Violations
    ) -> tuple[AdaptedModelRecord, BatchNormMode, bytes]:
        """Make a self-contained ONNX file of an adapted model."""
        with self.predicting.admit():
            if not check_id(adapted_model, violations):
                violations.check()
            adapted, arrays, model = await self.read(adapted_model)
            check_mode(mode, model, violations)
            violations.check()
            chosen = mode or adapted.options.batch_norm_mode
            check_kept(Question(model, arrays, chosen), adapted.id)
            room = adapted.size_bytes + template_bytes(model.bundle, arrays, chosen)
            await self.answer_room.hold_export(room)

            def work() -> bytes:
                with current_call().measure("compute"):
                    return export_model(model.bundle, arrays, adapted, chosen)

            return adapted, chosen, await self.workers.compute(work)

    async def import_model(
        self, header: UploadHeader, chunks: AsyncIterator[bytes]
    ) -> AdaptedModelRecord:
        """Store the adapted model in a file that `export` made."""
        with self.importing.admit():
            violations = Violations()
            header.check(self._ttl, violations)
            violations.check()
            limits = UploadLimits(self.config.max_message_bytes, self.config.message_timeout)
            content = await collect(chunks, limits)
            # It is parsed, and compared with what would be exported.
            await self.answer_room.hold_export(3 * len(content))

            def work() -> tuple[AdaptedModelRecord, AdaptedArrays]:
                with current_call().measure("decode"):
                    return read_exported(content, header, self._find_version, self._ttl)

            adapted, arrays = await self.workers.compute(work)
            kept = await self.kept_models.keep(adapted, arrays)
            current_call().adapted_model, current_call().model = kept.id, kept.model
            return kept

    async def _adapt(
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
                return check(model, noted, self._budget(shared))

            with current_call().measure("decode"):
                candidates = find_candidates(models, checked, violations)
            shared.prepared.clear()  # the candidates have theirs
            return candidates

        async def looks() -> Floats | None:
            images = task.support_set.images
            return await self.workers.prepare(lambda: thumbnails(images, shared, SUPPORT_IMAGES))

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

    async def _answer(
        self,
        queries: Images | None,
        adapted: AdaptedModelRecord,
        question: Question,
        prepare: Callable[[], Floats],
    ) -> Answers:
        """Answer the queries that `prepare` gives, together with those of other calls if few."""
        mode, encoder = question.mode, question.model.encoder
        sent = image_count(queries) or 0
        count = sent * images_per_query(len(question.arrays.support), mode)
        together = min(MAX_BATCH_IMAGES, question.model.predictor.run_images)
        light = count <= together
        joins = light and may_join(queries, count, mode)

        if encoder is not None:
            encodings, joins = self.encodings, light and few_alone(count, mode)
            if not encodings.takes(encoder, queries):
                prepare = partial(np.asarray, await self.workers.compute(prepare))
            if sent > encodings.most_images(encoder):
                encoded = await encodings.encode(encoder, prepare())
            elif joins and question.head_alone:
                # A head is done sooner than a job of its own begins.
                return await encodings.encode_few(
                    encoder, prepare, sent, lambda encoded: question.read(question.run(encoded))
                )
            else:
                encoded = await encodings.encode_few(encoder, prepare, sent, np.asarray)
            prepare = partial(np.asarray, encoded)
        if not joins:
            return await answer(question, prepare, self.workers)
        request = Request(prepare, question.read, count)
        key = adapted.id, adapted.bundle_digest, mode
        return await self.batches.answer(key, request, question.run, together)

    async def _find(
        self, task: AdaptInput, violations: Violations, query: PredictInput | None = None
    ) -> list[ServedModel]:
        """Return the models that may answer; if none is served, first check what needs no model."""
        if not task.model and (models := self.models):
            return models

        def check() -> None:
            check_task_alone(task, self.catalog.max_way, violations)
            if query is not None:
                check_sent(query.queries, QUERIES, violations)
            violations.check()

        try:
            model = self.find_model(task.model)
        except ModelNotFound:
            await self.workers.prepare(check)
            raise
        current_call().model = task.model
        return [model]

    def _find_version(self, name: str, bundle_digest: str) -> ServedModel | None:
        """Return a served version of a name that the caller may use, None if there is none."""
        if not self.quotas.limits.allows(name):
            return None
        sought = name, bundle_digest
        for model in self.catalog.versions:
            # The file's word for the name is not taken: it may be that of another bundle.
            if (model.bundle.manifest.name, model.bundle.digest) == sought:
                return model
        return None

    def _budget(self, shared: SharedImages) -> PixelBudget:
        config = self.config
        most = config.max_image_pixels, config.max_request_pixels
        return PixelBudget(*most, shared, self.decoders)

    def _check_cost(
        self,
        query: PredictInput,
        model: ServedModel,
        support_count: int,
        mode: BatchNormMode,
        violations: Violations,
    ) -> None:
        limits = CostLimits(self.config.max_predict_images, self.config.max_predict_macs)
        macs = model.image_mac_count
        check_cost(query.queries, support_count, mode, macs, limits, violations)

    async def read(
        self, adapted_model: str
    ) -> tuple[AdaptedModelRecord, AdaptedArrays, ServedModel]:
        """Return an adapted model and its version; adapt it again if that is gone and it may be."""
        adapted, arrays = await self.kept_models.read(adapted_model)
        try:
            model = await self.behind(adapted)
        except ModelChanged:
            if not adapted.options.readapt or adapted.model not in self.catalog:
                raise
            await self._readapt(adapted)
            adapted, arrays = await self.kept_models.read(adapted_model)
            model = self.catalog.serving(adapted)
        warnings, warning = current_call().query_warnings, readapted_warning(model)
        if was_adapted_again(adapted) and warning not in warnings:
            warnings.append(warning)
        return adapted, arrays, model

    async def _readapt(self, old: AdaptedModelRecord) -> None:
        """Adapt a model again to the version that its name means now, unless another call did."""
        model = self.find_model(old.model)
        async with self.readapting.turn(old):
            adapted, arrays = await self.kept_models.read_whole(old.id)
            if adapted.bundle_digest != old.bundle_digest:
                return
            problem, kept = self.readapting.problem(adapted, model), arrays.kept_images()
            if problem or kept is None:
                problem = problem or "its support set is not kept"
                raise ModelChanged(adapted.id, adapted.model, model.full_name, problem)
            await self.quotas.check_adapting()
            with self.adapting.admit(), self.quotas.count_adapting():
                task = readapt_task(adapted, kept, model)
                async with self.adapting_room.hold(5 * adapted.size_bytes):
                    try:
                        made = await self._adapt_to_keep(task, [model], _keep_all, Violations())
                    except (InvalidRequest, AdaptationDiverged) as error:
                        self.readapting.note(adapted, model, str(error))
                        raise ModelChanged(
                            adapted.id, adapted.model, model.full_name, str(error)
                        ) from error
            options = replace(
                made.model.options,
                ttl=adapted.options.ttl,
                allow_partial=adapted.options.allow_partial,
            )
            record = replace(made.model, options=options, parent=adapted.id)
            await self.kept_models.replace(adapted, record, made.arrays)
            log_event(
                "adapted_again",
                model=model.full_name,
                adapted_model=short_id(adapted.id),
                before=adapted.model_version,
            )

    async def behind(self, adapted: AdaptedModelRecord) -> ServedModel:
        """Return the version that was adapted; raise `ModelChanged` if it is gone."""
        current_call().adapted_model = adapted.id
        current_call().model = adapted.model
        if (model := self.catalog.at_hand(adapted)) is not None:
            return model
        return await self.workers.prepare(lambda: self.catalog.behind(adapted))


def _keep_all(_size_bytes: int) -> None:
    """Give no room back: the images of a revision stay until it has adapted."""
