from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import BatchNormMode, Bundle
from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.call_context import begin_call
from kshot.server.errors import InvalidRequest, ModelChanged
from kshot.server.oip.service import InferenceServicer
from kshot.server.predict.catalog import Catalog
from kshot.server.predict.prediction import Answers
from kshot.server.store.adapted_model import AdaptedModelRecord

ID = "am-" + "a" * 26


def request(version: str = "") -> wire.ModelInferRequest:
    images = wire.ModelInferRequest.InferInputTensor(
        name="images", datatype="FP32", shape=(1, 1, 4, 4)
    )
    pixels = np.zeros(16, np.float32).tobytes()
    return wire.ModelInferRequest(
        model_name=ID, model_version=version, inputs=[images], raw_input_contents=[pixels]
    )


class Front:
    """Answers with a version that a reload has dropped meanwhile; counts its predictions."""

    def __init__(self, bundle: Bundle, adapted: AdaptedModelRecord, *, gone: bool) -> None:
        self.catalog = Catalog.load([bundle.path])
        self.adapted, self.gone, self.predictions = adapted, gone, 0
        self.kept_models = SimpleNamespace(get=self._get)

    async def _get(self, _model_id: str) -> AdaptedModelRecord:
        return self.adapted

    async def behind(self, adapted: AdaptedModelRecord) -> Any:  # noqa: ANN401 -- the model
        if self.gone:
            raise ModelChanged(adapted.id, adapted.model)
        return next(iter(self.catalog))

    async def predict(self, *_arguments: object) -> Any:  # noqa: ANN401 -- as the front's
        self.predictions += 1
        logits = np.zeros((1, 5), np.float32)
        answers = Answers(logits, np.full((1, 5), 0.2, np.float32), BatchNormMode.SUPPORT)
        return self.adapted, answers, next(iter(self.catalog))


def infer(front: Front, version: str = "") -> wire.ModelInferResponse:
    async def main() -> wire.ModelInferResponse:
        begin_call("ModelInfer")
        servicer = InferenceServicer(cast(Any, front), lambda: True)
        return await servicer.ModelInfer(request(version), cast(Any, None))

    return asyncio.run(main())


@pytest.fixture
def adapted(make_model: Callable[..., AdaptedModelRecord]) -> AdaptedModelRecord:
    return replace(make_model(), id=ID)


def test_a_reload_after_the_answer_does_not_lose_it(
    tiny_bundle: Bundle, adapted: AdaptedModelRecord
) -> None:
    front = Front(tiny_bundle, adapted, gone=True)

    answer = infer(front)

    assert answer.model_version == str(tiny_bundle.manifest.version)


def test_a_version_is_compared_by_the_record(
    tiny_bundle: Bundle, adapted: AdaptedModelRecord
) -> None:
    """Arrays are read, and models adapted again, in the queue of predictions alone."""
    front = Front(tiny_bundle, adapted, gone=False)

    assert infer(front, str(tiny_bundle.manifest.version)).model_version
    with pytest.raises(InvalidRequest, match="model_version"):
        infer(front, "99")
    assert front.predictions == 1
