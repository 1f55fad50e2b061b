"""An export comes back as it was; a file that is anything else is refused, without running it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest

from kshot.bundle import BatchNormMode, Bundle
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import CallCancelled, ImportNotServed, InvalidRequest
from kshot.server.lives.exported_file import read_exported
from kshot.server.lives.upload import UploadHeader
from kshot.server.predict.export import export_model
from kshot.server.predict.predictor import Predictor
from kshot.server.request.digest import weights_digest
from kshot.server.request.options import TtlLimits
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
Change = Callable[[onnx.ModelProto], object]

TTLS = TtlLimits(60.0, 90.0)
SUPPORT, TRANSDUCTIVE = BatchNormMode.SUPPORT, BatchNormMode.TRANSDUCTIVE


def read(content: bytes, bundle: Bundle) -> tuple[AdaptedModelRecord, AdaptedArrays]:
    begin_call("ImportAdaptedModel")
    header = UploadHeader(hashlib.sha256(content).hexdigest())

    def find(name: str, digest: str) -> Any:  # noqa: ANN401 -- has the bundle alone
        fits = (name, digest) == (bundle.manifest.name, bundle.digest)
        return SimpleNamespace(bundle=bundle) if fits else None

    return read_exported(content, header, find, TTLS)


def described(
    model: AdaptedModelRecord, bundle: Bundle, arrays: AdaptedArrays
) -> AdaptedModelRecord:
    return replace(
        model,
        id="am-secret",
        tenant="secret",
        model=bundle.manifest.name,
        bundle_digest=bundle.digest,
        weights_digest=weights_digest(arrays.parameters),
        support_count=len(arrays.support),
        library_versions={"kshot": "1.0"},
    )


@pytest.fixture
def adapted(
    calibrated_bundle: Bundle, make_arrays: MakeArrays, make_model: MakeModel
) -> tuple[AdaptedModelRecord, AdaptedArrays]:
    """A 3-way adapted model of the calibrated bundle."""
    arrays = make_arrays(2, way=3, support_count=7)
    return described(make_model(way=3), calibrated_bundle, arrays), arrays


@pytest.mark.parametrize("mode", [SUPPORT, TRANSDUCTIVE])
def test_an_export_comes_back(
    calibrated_bundle: Bundle,
    adapted: tuple[AdaptedModelRecord, AdaptedArrays],
    mode: BatchNormMode,
) -> None:
    """Bit for bit, and without id, tenant or support set; it can be exported again."""
    model, arrays = adapted
    content = export_model(calibrated_bundle, arrays, model, mode)

    got, numbers = read(content, calibrated_bundle)

    queries = np.random.default_rng(1).normal(size=(6, 1, 4, 4)).astype(np.float32)
    predictor = Predictor(calibrated_bundle)
    np.testing.assert_array_equal(
        predictor.logits(numbers, queries, mode), predictor.logits(arrays, queries, mode)
    )
    assert weights_digest(numbers.parameters) == model.weights_digest
    assert numbers.support.shape == (7, 0, 1, 1)
    assert predictor.answers(numbers, SUPPORT) is (mode is SUPPORT)
    assert not predictor.answers(numbers, BatchNormMode.SUPPORT_AND_QUERY)
    assert b"secret" not in content
    options = replace(
        model.options, ttl=60.0, batch_norm_mode=mode, retain_support=False, readapt=False
    )
    times = {"create_time": got.create_time, "expire_time": got.expire_time}
    assert got == replace(model, id="", tenant="", options=options, support_kept=False, **times)
    again = read(export_model(calibrated_bundle, numbers, got, mode), calibrated_bundle)
    assert again[0].weights_digest == model.weights_digest


def test_an_export_of_an_earlier_release_comes_back(
    calibrated_bundle: Bundle, adapted: tuple[AdaptedModelRecord, AdaptedArrays]
) -> None:
    """Its metadata have `kshot.temperature`, and do not say what is applied."""
    model, arrays = adapted
    file = onnx.load_from_string(export_model(calibrated_bundle, arrays, model, SUPPORT))
    since = {"kshot.applied", "kshot.to_apply", "kshot.pictures", "kshot.temperature_applied"}
    kept = {each.key: each.value for each in file.metadata_props if each.key not in since}
    onnx.helper.set_model_props(file, kept | {"kshot.temperature": "2.0"})

    got, _ = read(file.SerializeToString(), calibrated_bundle)

    assert got.weights_digest == model.weights_digest


def head(model: onnx.ModelProto) -> onnx.TensorProto:
    (found,) = [each for each in model.graph.initializer if each.name == "head.weight"]
    return found


def set_fact(key: str, value: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = [each for each in model.metadata_props if each.key == key]
        entry.value = value

    return change


def set_adaptation(**changed: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = [each for each in model.metadata_props if each.key == "kshot.adaptation"]
        entry.value = json.dumps(json.loads(entry.value) | changed)

    return change


def nest(model: onnx.ModelProto) -> None:
    graph = model.graph
    for _ in range(200):
        graph = graph.node.add(op_type="If").attribute.add(type=onnx.AttributeProto.GRAPH).g


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.graph.node.add(op_type="Identity"), "the graph of an export"),
        (lambda model: model.graph.node.pop(), "the graph of an export"),
        (lambda model: model.graph.initializer.add(name="more"), "the graph of an export"),
        (lambda model: model.graph.initializer.append(head(model)), "the graph of an export"),
        (lambda model: model.functions.add(name="f"), "the graph of an export"),
        (lambda model: model.opset_import.add(domain="x", version=1), "the graph of an export"),
        (lambda model: setattr(model.opset_import[0], "version", 17), "the graph of an export"),
        (nest, "an ONNX file"),
        (lambda model: head(model).ClearField("raw_data"), "the numbers of head.weight"),
        (lambda model: head(model).dims.append(2**40), "the numbers of head.weight"),
        (lambda model: setattr(head(model), "data_location", 1), "the numbers of head.weight"),
        (lambda model: setattr(head(model), "data_type", 11), "the numbers of head.weight"),
        (lambda model: setattr(head(model), "name", "other"), "the numbers of head.weight"),
        (
            lambda model: setattr(head(model), "raw_data", b"\0\0\xc0\x7f" * 48),
            "finite numbers, got others in head.weight",
        ),
        (lambda model: setattr(head(model), "raw_data", bytes(192)), "parameters with the digest"),
        (lambda model: model.ClearField("metadata_props"), "the metadata of an export"),
        (set_fact("kshot.batch_norm_mode", "none"), "the metadata of an export"),
        (set_fact("kshot.batch_norm_mode", "stored"), "one of the modes"),
        (set_fact("kshot.class_names", '["a", "a", "b"]'), "class names and options that"),
        (set_fact("kshot.class_names", '["a", "\\ud800", "b"]'), "the metadata of an export, got"),
        (set_fact("kshot.class_names", "[" * 10**5), "the metadata of an export"),
        (set_fact("kshot.class_names", "[" + "[]," * 10**6), "the metadata of an export"),
        (set_fact("kshot.class_names", "[]"), "class names and options that"),
        (set_fact("kshot.adaptation", "[1]"), "the metadata of an export"),
        (set_adaptation(support_count=10**9), "the metadata of an export"),
        (set_adaptation(support_count=8), "the graph of an export"),
        (set_adaptation(support_accuracy=float("nan")), "a support_accuracy from 0 to 1"),
        (set_adaptation(adaptation_digest="../x"), "the metadata of an export"),
        (set_adaptation(library_versions=[]), "the metadata of an export"),
        (set_adaptation(options={}), "the metadata of an export"),
    ],
)
def test_other_files_are_refused(
    calibrated_bundle: Bundle,
    adapted: tuple[AdaptedModelRecord, AdaptedArrays],
    change: Change,
    message: str,
) -> None:
    """Eight examples would have another temperature than seven."""
    model, arrays = adapted
    file = onnx.load_from_string(export_model(calibrated_bundle, arrays, model, SUPPORT))
    change(file)

    with pytest.raises(InvalidRequest, match="only files that ExportAdaptedModel") as caught:
        read(file.SerializeToString(), calibrated_bundle)

    assert str(caught.value).startswith(f"chunk: expected {message}")


@pytest.mark.parametrize("content", [b"", b"\0", b"\x3a\xff\xff\xff\xff\x07", b"\x72\0" * 200_000])
def test_bytes_of_another_kind_are_refused(calibrated_bundle: Bundle, content: bytes) -> None:
    """A graph of 2 GB that is not there, and 200,000 empty fields, among them."""
    with pytest.raises(InvalidRequest, match="only files that ExportAdaptedModel"):
        read(content, calibrated_bundle)


def test_the_support_set_is_not_imported(
    calibrated_bundle: Bundle, adapted: tuple[AdaptedModelRecord, AdaptedArrays]
) -> None:
    model, arrays = adapted
    content = export_model(calibrated_bundle, arrays, model, BatchNormMode.SUPPORT_AND_QUERY)

    with pytest.raises(InvalidRequest, match="needs the support set; export in another"):
        read(content, calibrated_bundle)


def test_the_bundle_has_to_be_served(
    tiny_bundle: Bundle,
    calibrated_bundle: Bundle,
    adapted: tuple[AdaptedModelRecord, AdaptedArrays],
) -> None:
    """And the bytes have to be those that were meant."""
    content = export_model(calibrated_bundle, *adapted[::-1], SUPPORT)

    with pytest.raises(ImportNotServed, match="that is not served, with digest"):
        read(content, tiny_bundle)
    with pytest.raises(InvalidRequest, match="sha256: expected the SHA-256 of the file"):
        read_exported(content, UploadHeader("0" * 64), lambda *_: None, TTLS)


def test_an_import_whose_caller_left_stops(
    calibrated_bundle: Bundle, adapted: tuple[AdaptedModelRecord, AdaptedArrays]
) -> None:
    content = export_model(calibrated_bundle, *adapted[::-1], SUPPORT)
    begin_call("ImportAdaptedModel")

    def find(*_: str) -> Any:  # noqa: ANN401 -- has the bundle alone
        current_call().ended = True
        return SimpleNamespace(bundle=calibrated_bundle)

    header = UploadHeader(hashlib.sha256(content).hexdigest())
    with pytest.raises(CallCancelled):
        read_exported(content, header, find, TTLS)


def test_a_small_file_has_no_large_encoder_read(
    calibrated_bundle: Bundle, adapted: tuple[AdaptedModelRecord, AdaptedArrays]
) -> None:
    """An export has its encoder within."""
    content = export_model(calibrated_bundle, *adapted[::-1], SUPPORT)
    files: Any = {"encoder.onnx": SimpleNamespace(size_bytes=10**9)}
    manifest = replace(calibrated_bundle.manifest, files=files)
    path, digest = Path("encoder.onnx"), calibrated_bundle.digest
    bundle = SimpleNamespace(manifest=manifest, digest=digest, encoder_path=path)

    with pytest.raises(InvalidRequest, match="expected a file that has its encoder, got one of"):
        read(content, cast(Bundle, bundle))
