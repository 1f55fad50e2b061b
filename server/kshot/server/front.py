"""The work behind each RPC, free of protobuf and gRPC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from kshot.bundle import BatchNormMode
from kshot.server.adaptation import (
    AdaptResult,
    CheckedTask,
    adapt,
    check_task,
    check_task_alone,
    warn_of_support_set,
)
from kshot.server.admission import Admission
from kshot.server.call_context import current_call
from kshot.server.config import ServerConfig
from kshot.server.engine_link.supervisor import EngineSupervisor
from kshot.server.predict.batches import (
    Batches,
    Request,
    few_alone,
    may_join,
    quick_to_prepare,
)
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.export import export_model
from kshot.server.predict.prediction import (
    Answers,
    Floats,
    Question,
    answer,
    check_mode,
    check_rejection,
    check_size,
    prepare_queries,
    read_logits,
    with_known_scores,
)
from kshot.server.predict.predictor import images_per_query
from kshot.server.request.grounds import (
    SupportGrounds,
    grounds_of,
    warn_of_queries,
)
from kshot.server.request.images import PixelBudget, check_sent, image_count
from kshot.server.request.inputs import AdaptInput, Images, PredictInput
from kshot.server.request.options import TtlLimits
from kshot.server.request.validation import check_id
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.store.kept_models import KeptModels
from kshot.server.workers import Workers


@dataclass(frozen=True)
class Front:
    """The parts that all calls share; its methods raise `RequestError`s.

    Each takes the violations found so far, adds its own, and raises them all.
    """

    config: ServerConfig
    catalog: Catalog
    engine: EngineSupervisor
    kept_models: KeptModels
    workers: Workers
    batches: Batches[Answers]
    encodings: Encodings
    adapting: Admission
    predicting: Admission
    support_grounds: SupportGrounds = field(default_factory=SupportGrounds)

    async def adapt(self, task: AdaptInput, violations: Violations) -> AdaptResult:
        """Adapt and store the adapted model."""
        with self.adapting.admit():
            ttl = TtlLimits(self.config.default_ttl, self.config.max_ttl)

            def check() -> tuple[ServedModel, CheckedTask]:
                with current_call().measure("decode"):
                    model = self._find(task, violations)
                    checked = check_task(task, model, ttl, self._budget(), violations)
                    violations.check()
                    warn_of_support_set(checked, model.bundle.manifest)
                    return model, checked

            model, checked = await self.workers.prepare(check)
            checked = await self._encode_support(model, checked)
            adaptation = await adapt(checked, self.engine.adapt, self.workers)
            kept = await self.kept_models.keep(adaptation.model, adaptation.arrays)
            current_call().adapted_model = kept.id
            return replace(adaptation, model=kept)

    async def adapt_and_predict(
        self,
        task: AdaptInput,
        query: PredictInput,
        violations: Violations,
    ) -> tuple[AdaptResult, Answers]:
        """Adapt, classify queries, store nothing."""
        with self.adapting.admit():
            if "ttl" in task.options:
                violations.add("options.ttl", "must not be set: AdaptAndPredict keeps no model")
                others = {name: task.options[name] for name in task.options if name != "ttl"}
                task = replace(task, options=others)
            no_ttl, budget = TtlLimits(0, 0), self._budget()

            def check() -> tuple[ServedModel, CheckedTask, Floats]:
                with current_call().measure("decode"):
                    model = self._find(task, violations, query)
                    checked = check_task(task, model, no_ttl, budget, violations)
                    options = checked.engine_task.options
                    support_count = len(checked.engine_task.support)
                    self._check_size(query, support_count, options.batch_norm_mode, violations)
                    queries = prepare_queries(query.queries, model, budget, violations)
                    violations.check()
                    manifest = model.bundle.manifest
                    warn_of_support_set(checked, manifest)
                    grounds = grounds_of(checked.images, manifest)
                    warn_of_queries(grounds, grounds_of(queries, manifest))
                    return model, checked, queries

            model, checked, queries = await self.workers.prepare(check)
            checked = await self._encode_support(model, checked)
            if model.encoder is not None:
                queries = await self.encodings.encode(model.encoder, queries)
            adaptation = await adapt(checked, self.engine.adapt, self.workers)
            mode = checked.engine_task.options.batch_norm_mode
            question = Question(model, adaptation.arrays, mode)
            answers = await answer(question, lambda: queries, self.workers)
            return adaptation, with_known_scores(answers, adaptation.arrays, query.reject_below)

    async def predict(
        self, adapted_model: str, query: PredictInput, violations: Violations
    ) -> tuple[AdaptedModelRecord, Answers]:
        """Classify queries with an adapted model."""
        with self.predicting.admit():
            if not check_id(adapted_model, violations):
                check_sent(query.queries, "queries", violations)
                violations.check()
            adapted, arrays = await self.kept_models.read(adapted_model)
            model = self._behind(adapted)
            mode = query.mode or adapted.options.batch_norm_mode

            support_count = len(arrays.support)

            def prepare() -> Floats:
                with current_call().measure("decode"):
                    check_mode(query.mode, model, violations)
                    check_rejection(query.reject_below, arrays, violations)
                    self._check_size(query, support_count, mode, violations)
                    queries = prepare_queries(query.queries, model, self._budget(), violations)
                    violations.check()
                    manifest = model.bundle.manifest
                    grounds = self.support_grounds.of(adapted.id, arrays.support, manifest)
                    warn_of_queries(grounds, grounds_of(queries, manifest))
                    return queries

            count = (image_count(query.queries) or 0) * images_per_query(support_count, mode)
            joins = may_join(query.queries, count, mode)
            if model.encoder is not None:
                encoded = await self._encode_queries(model.encoder, query.queries, prepare)
                prepare, joins = partial(np.asarray, encoded), few_alone(count, mode)
            if joins:
                request = Request(prepare, lambda logits: read_logits(logits, mode), count)
                answers = await self.batches.answer(
                    (adapted.id, mode),
                    request,
                    lambda queries: model.predictor.logits(arrays, queries, mode),
                )
            else:
                question = Question(model, arrays, mode)
                answers = await answer(question, prepare, self.workers)
            return adapted, with_known_scores(answers, arrays)

    async def export(
        self, adapted_model: str, mode: BatchNormMode | None, violations: Violations
    ) -> tuple[AdaptedModelRecord, BatchNormMode, bytes]:
        """Make a self-contained ONNX file of an adapted model."""
        with self.predicting.admit():
            if not check_id(adapted_model, violations):
                violations.check()
            adapted, arrays = await self.kept_models.read(adapted_model)
            model = self._behind(adapted)
            check_mode(mode, model, violations)
            violations.check()
            chosen = mode or adapted.options.batch_norm_mode

            def work() -> bytes:
                with current_call().measure("compute"):
                    return export_model(model.bundle, arrays, adapted, chosen)

            return adapted, chosen, await self.workers.compute(work)

    async def _encode_support(self, model: ServedModel, task: CheckedTask) -> CheckedTask:
        """Give the engine the encoded support set if the model has an encoder."""
        if model.encoder is None:
            return task
        support = await self.encodings.encode(model.encoder, task.images)
        return await self.workers.prepare(lambda: task.encoded(support))

    async def _encode_queries(
        self, encoder: Encoder, queries: Images | None, prepare: Callable[[], Floats]
    ) -> Floats:
        """Prepare and encode queries; small requests do both in one job."""
        count = image_count(queries) or 0
        if quick_to_prepare(queries) and count <= self.encodings.max_images:
            return await self.encodings.encode_few(encoder, prepare, count)
        return await self.encodings.encode(encoder, await self.workers.compute(prepare))

    def _find(
        self, task: AdaptInput, violations: Violations, query: PredictInput | None = None
    ) -> ServedModel:
        """Return the model of a request; if it is not served, first check what needs no model."""
        if not task.model:
            violations.add("model", "expected the name of a served model, got none")
        if task.model not in self.catalog:
            check_task_alone(task, self.catalog.max_way, violations)
            if query is not None:
                check_sent(query.queries, "queries", violations)
            violations.check()
        model = self.catalog.find(task.model)
        current_call().model = task.model
        return model

    def _budget(self) -> PixelBudget:
        return PixelBudget(self.config.max_image_pixels, self.config.max_request_pixels)

    def _check_size(
        self, query: PredictInput, support_count: int, mode: BatchNormMode, violations: Violations
    ) -> None:
        most = self.config.max_predict_images
        check_size(query.queries, support_count, mode, most, violations)

    def _behind(self, adapted: AdaptedModelRecord) -> ServedModel:
        current_call().adapted_model = adapted.id
        current_call().model = adapted.model
        return self.catalog.behind(adapted)
