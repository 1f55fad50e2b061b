from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from kshot.bundle import COMPUTED_MODES, BatchNormMode, Bundle, manifest_document
from kshot.server.predict.export import export_model
from kshot.server.predict.predictor import Predictor
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]


@pytest.mark.parametrize("mode", COMPUTED_MODES)
@pytest.mark.parametrize("way", [2, 7])
def test_an_export_answers_as_the_server(
    tiny_bundle: Bundle,
    make_arrays: MakeArrays,
    make_model: MakeModel,
    mode: BatchNormMode,
    way: int,
) -> None:
    arrays, adapted = make_arrays(3, way=way), make_model(way=way)
    content = export_model(tiny_bundle, arrays, adapted, mode)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(1).normal(size=(6, 1, 4, 4)).astype(np.float32)
    (logits,) = session.run(None, {"inputs": inputs})

    assert [value.name for value in session.get_inputs()] == ["inputs"]
    assert session.get_outputs()[0].shape == ["query_count", way]
    np.testing.assert_allclose(
        logits, Predictor(tiny_bundle).logits(arrays, inputs, mode), atol=1e-5
    )


def test_an_exported_model_says_what_it_is(
    tiny_bundle: Bundle, make_arrays: MakeArrays, make_model: MakeModel
) -> None:
    adapted = replace(make_model(), bundle_digest=tiny_bundle.digest)
    content = export_model(tiny_bundle, make_arrays(), adapted, BatchNormMode.SUPPORT)
    model = onnx.load_from_string(content)
    facts = {entry.key: entry.value for entry in model.metadata_props}

    onnx.checker.check_model(model, full_check=True)
    assert json.loads(facts["kshot.class_names"]) == list(adapted.class_names)
    assert json.loads(facts["kshot.input"]) == manifest_document(tiny_bundle.manifest)["input"]
    assert facts["kshot.model"] == "tiny"
    assert facts["kshot.bundle_digest"] == tiny_bundle.digest
    assert facts["kshot.weights_digest"] == adapted.weights_digest
    assert facts["kshot.batch_norm_mode"] == "support"
    assert "5-way classifier adapted by kshot from tiny" in model.doc_string
    assert not model.graph.value_info


def test_equal_models_export_to_equal_bytes(
    tiny_bundle: Bundle, make_arrays: MakeArrays, make_model: MakeModel
) -> None:
    exports = {
        export_model(tiny_bundle, make_arrays(), make_model(), BatchNormMode.SUPPORT_AND_QUERY)
        for _ in range(2)
    }

    assert len(exports) == 1
