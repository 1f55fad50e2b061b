from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Bundle,
    Calibration,
    TemperatureRule,
    manifest_document,
)
from kshot.server.call_context import begin_call
from kshot.server.lives.exported_file import read_exported
from kshot.server.lives.upload import UploadHeader
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.export import export_model, most_template_bytes
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime
from kshot.server.request.digest import weights_digest
from kshot.server.request.options import Bounds, TtlLimits, resolve_options
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]


def test_the_largest_template_is_known(encoder_bundle: Bundle) -> None:
    """An import's room counts it; the encoder is in the file that is imported."""
    largest = max(each.stat().st_size for each in encoder_bundle.path.glob("predict_*.onnx"))

    assert most_template_bytes(encoder_bundle) == largest


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


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_an_export_with_a_tail_answers_as_the_server(
    tail_bundle: Bundle, make_model: MakeModel, temperature: float
) -> None:
    """Encoder, head and tail are one file, and the maps no output of it."""
    stored, random, tail = BatchNormMode.STORED, np.random.default_rng(0), tail_bundle.read_tail()
    assert tail is not None
    rules = (TemperatureRule(stored, 1, temperature), TemperatureRule(stored, 5, temperature))
    fitted = Calibration(rules, "val", "d4", 5, task_count=9, query_count=2, step_count=0, seed=0)
    bundle = replace(tail_bundle, manifest=replace(tail_bundle.manifest, calibration=fitted))
    parameters = {
        "head.weight": random.normal(size=(3, 12)).astype(np.float32),
        "head.bias": random.normal(size=3).astype(np.float32),
        **tail.parameters,
        "tail.classes": random.normal(size=(3, 8)).astype(np.float32),
        "tail.mix": np.array([1, 0.7], np.float32),
    }
    arrays = AdaptedArrays(parameters, {}, np.empty((3, 0, 1, 1), np.float32))
    content = export_model(bundle, arrays, make_model(way=3), stored)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = random.uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    (logits,) = session.run(None, {"inputs": images})

    encoded = Encoder(tail_bundle, Runtime()).encode(images)
    wanted = Predictor(bundle).logits(arrays, encoded, stored)
    assert [value.name for value in session.get_outputs()] == ["logits"]
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    plain = Predictor(tail_bundle).logits(arrays, encoded, stored)
    np.testing.assert_allclose(logits, plain / temperature, atol=1e-5)


def test_an_export_with_a_tail_can_be_imported(tail_bundle: Bundle, make_model: MakeModel) -> None:
    """Behind an encoder, bit for bit; here, where the bundle is made anyway."""
    manifest, tail = tail_bundle.manifest, tail_bundle.read_tail()
    assert tail is not None
    random = np.random.default_rng(0)
    parameters = {
        "head.weight": random.normal(size=(3, 12)).astype(np.float32),
        "head.bias": random.normal(size=3).astype(np.float32),
        **tail.parameters,
        "tail.classes": random.normal(size=(3, 8)).astype(np.float32),
        "tail.mix": np.array([1, 0.7], np.float32),
    }
    ttls = TtlLimits(60.0, 90.0)
    adapted = replace(
        make_model(way=3),
        model="tailed",
        bundle_digest=tail_bundle.digest,
        weights_digest=weights_digest(parameters),
        options=resolve_options({}, Bounds(manifest, 3, 3, ttls), Violations()),
        step_count=0,
        support_count=3,
    )
    arrays = AdaptedArrays(parameters, {}, np.empty((3, 0, 1, 1), np.float32))
    content = export_model(tail_bundle, arrays, adapted, BatchNormMode.STORED)
    header = UploadHeader(hashlib.sha256(content).hexdigest())
    served = cast(Any, SimpleNamespace(bundle=tail_bundle))

    begin_call("ImportAdaptedModel")
    _, found = read_exported(content, header, lambda *_: served, ttls)

    assert found.parameters.keys() == parameters.keys()
    for name, array in parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)
