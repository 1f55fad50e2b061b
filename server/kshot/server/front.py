"""The work behind each RPC, free of protobuf and gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import cast

import numpy as np

from kshot.bundle import BatchNormMode
from kshot.server.access.quotas import Quotas
from kshot.server.adaptation import AdaptResult
from kshot.server.admission import Admission, ImageRoom, room_bytes
from kshot.server.call_context import current_call
from kshot.server.checked_task import check_task, check_task_alone
from kshot.server.choice import Candidate
from kshot.server.config import ServerConfig
from kshot.server.engine_link.pool import EnginePool
from kshot.server.errors import (
    ModelChanged,
    ModelNotFound,
)
from kshot.server.limits.answers import AnswerRoom
from kshot.server.lives.importer import Importer
from kshot.server.lives.model_maker import ModelMaker, Remember
from kshot.server.lives.readaptation import Readaptation, warn_if_adapted_again
from kshot.server.lives.reviser import Reviser
from kshot.server.lives.revision import Revision
from kshot.server.lives.upload import UploadHeader
from kshot.server.predict.batches import MAX_BATCH_IMAGES, Batches, Request, few_alone, may_join
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.export import export_model, most_template_bytes, template_bytes
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
from kshot.server.request.grounds import (
    SupportGrounds,
    grounds_of,
    query_ground_warnings,
)
from kshot.server.request.images import (
    QUERIES,
    PixelBudget,
    SharedImages,
    check_sent,
    image_count,
)
from kshot.server.request.inputs import AdaptInput, Images, PredictInput
from kshot.server.request.list_filter import parse_filter
from kshot.server.request.options import TtlLimits
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.kept_models import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, KeptModels
from kshot.server.workers import Workers

# Each may hold a message of the greatest size.
_MAX_IMPORTS = 16


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
        allowed = self.quotas.limits.allows(name.partition("@")[0])
        if name in self.catalog and allowed:
            return self.catalog.find(name)
        raise ModelNotFound(name, sorted(self.named_models), barred=not allowed)

    @cached_property
    def maker(self) -> ModelMaker:
        """Return what adapts, for whichever call."""
        return ModelMaker(
            config=self.config,
            engine=self.engine,
            kept_models=self.kept_models,
            workers=self.workers,
            encodings=self.encodings,
            decoders=self.decoders,
            queue=self.adapting,
            room=self.adapting_room,
            quotas=self.quotas,
        )

    @cached_property
    def readaptation(self) -> Readaptation:
        """Return what adapts models again by itself."""
        return Readaptation(self.maker)

    async def adapt(
        self, task: AdaptInput, violations: Violations, remember: Remember | None = None
    ) -> AdaptResult:
        """Adapt and store the adapted model, with what `remember` makes of the result."""
        maker = self.maker
        async with maker.admit():
            models = await self._find(task, violations)
            room = room_bytes(models, task.support_set.images)
            async with maker.room.hold(room) as shrink_room:
                adaptation = await maker.adapt_to_keep(task, models, shrink_room, violations)
            return await maker.keep(adaptation, remember)

    async def revise(
        self, revision: Revision, violations: Violations, remember: Remember | None = None
    ) -> AdaptResult:
        """Adapt anew to the changed support set of an adapted model, and store the result."""

        def serving(adapted: AdaptedModelRecord) -> ServedModel:
            model = self.catalog.serving(adapted)
            self.find_model(adapted.model)  # which the caller may use no more, perhaps
            return model

        return await Reviser(self.maker, serving).revise(revision, violations, remember)

    async def adapt_and_predict(
        self,
        task: AdaptInput,
        query: PredictInput,
        violations: Violations,
    ) -> tuple[AdaptResult, Answers]:
        """Adapt, classify queries, store nothing."""
        maker = self.maker
        async with maker.admit():
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
                mode, macs = options.batch_norm_mode, model.image_mac_count
                check_cost(query.queries, len(support), mode, macs, self._costs, noted)
                return Candidate(
                    model, checked, prepare_queries(query.queries, model, budget, noted)
                )

            room = room_bytes(models, task.support_set.images, query.queries)
            async with maker.room.hold(room) as shrink_room:
                chosen, adaptation = await maker.adapt(task, models, check, shrink_room, violations)
                queries = cast(Floats, chosen.queries)
                mode, arrays = adaptation.model.options.batch_norm_mode, adaptation.arrays
                question = Question(chosen.model, arrays, mode)
                answers = await answer(question, lambda: queries, self.workers)
                answers = await scored(answers, arrays, query.reject_below, self.workers)
            return adaptation, answers

    async def predict(
        self, adapted_model: str, query: PredictInput, violations: Violations
    ) -> tuple[AdaptedModelRecord, Answers, ServedModel]:
        """Classify queries with an adapted model; return it, and the version that answered."""
        with self.predicting.admit():
            if not check_id(adapted_model, violations):
                check_sent(query.queries, QUERIES, violations)
                violations.check()
            adapted, arrays, model = await self.read(adapted_model)
            limits = [model.bundle.manifest.limits]
            await self.answer_room.hold(query, adapted.class_names, limits, violations)
            mode = query.mode or adapted.options.batch_norm_mode

            support_count, budget = len(arrays.support), self.maker.budget(SharedImages())

            def prepare() -> Floats:
                with current_call().measure("decode"):
                    check_mode(query.mode, model, violations)
                    check_rejection(query.reject_below, arrays, violations)
                    macs = model.image_mac_count
                    check_cost(query.queries, support_count, mode, macs, self._costs, violations)
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
            return adapted, answers, model

    async def page(
        self, page_size: int, page_token: str, model: str, text: str = ""
    ) -> tuple[Sequence[AdaptedModelRecord], str]:
        """Return a page of records as `KeptModels.page` does, of few where names are long.

        `text` is the filter.
        """
        wanted = parse_filter(text)
        labels = self.quotas.limits.allows(model.partition("@")[0])
        model, version = self.catalog.kept_name(model, labels=labels)
        if version is not None:
            wanted = wanted.of_version(version)
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
            most = max((most_template_bytes(model.bundle) for model in self.models), default=0)
            importer = Importer(self.maker, self.answer_room, self._find_version, most)
            return await importer.store(header, chunks)

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
        # The file's word for the name is not taken: it may be that of another bundle.
        model = self.catalog.served(bundle_digest)
        named = model is not None and model.bundle.manifest.name == name
        return model if named and self.quotas.limits.allows(name) else None

    @property
    def _costs(self) -> CostLimits:
        return CostLimits(self.config.max_predict_images, self.config.max_predict_macs)

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
            await self.readaptation.adapt(adapted, self.find_model(adapted.model))
            adapted, arrays = await self.kept_models.read(adapted_model)
            model = self.catalog.serving(adapted)
        warn_if_adapted_again(adapted, model)
        return adapted, arrays, model

    async def behind(self, adapted: AdaptedModelRecord) -> ServedModel:
        """Return the version that was adapted; raise `ModelChanged` if it is gone."""
        current_call().adapted_model = adapted.id
        current_call().model = adapted.model
        if (model := self.catalog.at_hand(adapted)) is not None:
            return model
        return await self.workers.prepare(lambda: self.catalog.behind(adapted))
