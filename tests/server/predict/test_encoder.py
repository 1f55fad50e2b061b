from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from kshot.bundle import (
    BatchNorm,
    BatchNormMode,
    Bundle,
    BundleError,
    Scope,
    ScopePolicy,
    Weights,
    write_bundle,
)
from kshot.server.predict import encoder as encoder_module
from kshot.server.predict.catalog import Catalog
from kshot.server.predict.encoder import Encoder, part_for_maps
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime
from kshot.server.store.adapted_model import AdaptedArrays

MakeBundle = Callable[..., Bundle]


def encoder(images: str, encoded: str, body: str, opset: int = 18) -> bytes:
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
        encode ({images}) => ({encoded}) {{ {body} }}"""
    return onnx.parser.parse_model(text).SerializeToString()


def test_an_encoder_runs(encoder_bundle: Bundle) -> None:
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    made = Encoder(encoder_bundle, Runtime())

    encoded = made.encode(images)

    wanted = images.reshape(3, 1, 4, 2, 4, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(encoded, wanted, atol=1e-6)
    assert made.output_shape == (1, 4, 4)


def test_bundles_of_one_encoder_share_it(
    tiny_bundle: Bundle, encoder_bundle: Bundle, make_encoder_bundle: MakeBundle
) -> None:
    other = make_encoder_bundle(name="other")
    catalog = Catalog.load([tiny_bundle.path, encoder_bundle.path, other.path])

    assert catalog.find("tiny").encoder is None
    assert catalog.find("encoded").encoder is catalog.find("other").encoder is not None


POOL = "AveragePool<kernel_shape = [2, 2], strides = [2, 2]>"
IMAGES, ENCODED = "float[n,1,8,8] images", "float[n,1,4,4] encoded"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"nonsense", "ONNX Runtime cannot load this file"),
        (
            encoder("float[n,1,8,8] pixels", ENCODED, f"encoded = {POOL}(pixels)"),
            r"input: expected images, float32 of shape \(n, 1, 8, 8\), got pixels",
        ),
        (
            encoder("float[n,1,6,6] images", "float[n,1,3,3] encoded", f"encoded = {POOL}(images)"),
            r"input: expected images, .*, got images tensor\(float\) \['n', 1, 6, 6\]",
        ),
        (
            encoder("float[2,1,8,8] images", "float[2,1,4,4] encoded", f"encoded = {POOL}(images)"),
            r"input: expected images, .*\[2, 1, 8, 8\]",
        ),
        (
            encoder("float[n,1,8,8] images, float x", ENCODED, f"encoded = {POOL}(images)"),
            "input: expected images, .*; x ",
        ),
        (  # only as an output, for a tail
            encoder("float[n,1,8,8] images, float maps", ENCODED, f"encoded = {POOL}(images)"),
            "input: expected images, .*; maps ",
        ),
        (
            encoder(IMAGES, "float[n,1,8,8] encoded", "encoded = Relu(images)"),
            r"output: expected encoded, float32 of shape \(n, 1, 4, 4\), got .*8, 8",
        ),
        (
            encoder(IMAGES, "float[n,1,4,4] maps", f"maps = {POOL}(images)"),
            "output: expected encoded, .* got maps",
        ),
        (
            encoder(IMAGES, ENCODED, f"encoded = {POOL}(images)", opset=17),
            "expected opset ai.onnx 18, as the templates have, got ai.onnx 17",
        ),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(
    make_encoder_bundle: MakeBundle, content: bytes, problem: str
) -> None:
    bundle = make_encoder_bundle(content)

    with pytest.raises(BundleError, match=f"encoder.onnx: {problem}"):
        Catalog.load([bundle.path])


def test_tensors_outside_of_the_bundle_are_refused(make_encoder_bundle: MakeBundle) -> None:
    """No digest covers the other file: whoever changes it changes the encoder."""
    model = onnx.load_from_string(
        encoder(IMAGES, ENCODED, f"maps = {POOL}(images) encoded = Add(maps, shift)")
    )
    shift = model.graph.initializer.add(name="shift", dims=[1], data_type=onnx.TensorProto.FLOAT)
    shift.data_location = onnx.TensorProto.EXTERNAL
    shift.external_data.add(key="location", value="shift.bin")
    bundle = make_encoder_bundle(model.SerializeToString())
    (bundle.path / "shift.bin").write_bytes(np.ones(1, "<f4").tobytes())

    with pytest.raises(
        BundleError, match=r"encoder.onnx: expected all tensors in this file, got sh"
    ):
        Catalog.load([bundle.path])


def test_a_head_alone_gets_no_session(tmp_path: Path, encoder_bundle: Bundle) -> None:
    """It saves microseconds, and making one takes milliseconds."""
    head = """<ir_version: 10, opset_import: ["" : 18]> predict (
        float[query_count,1,4,4] inputs, float[way,16] "head.weight", float[way] "head.bias"
    ) => (float[query_count,way] logits) {
        x = Flatten<axis=1>(inputs)
        logits = Gemm<transB=1>(x, "head.weight", "head.bias")
    }"""
    stored = BatchNormMode.STORED
    manifest = replace(
        encoder_bundle.manifest, batch_norm=BatchNorm(stored, (stored,)), name="head", files={}
    )
    zeros = {"head.weight": np.zeros((5, 16), np.float32), "head.bias": np.zeros(5, np.float32)}
    encoder = (encoder_bundle.path / "encoder.onnx").read_bytes()
    template = onnx.parser.parse_model(head).SerializeToString()
    weights = Weights(zeros, zeros, step=0)
    bundle = write_bundle(tmp_path, manifest, weights, {stored: template}, "# h\n", encoder=encoder)
    hot_set = HotSet(4, after_images=1)
    random = np.random.default_rng(0)
    arrays = AdaptedArrays(
        {
            "head.weight": random.normal(size=(3, 16)).astype(np.float32),
            "head.bias": np.ones(3, np.float32),
        },
        {},
        np.zeros((3, 1, 4, 4), np.float32),
    )
    queries = random.normal(size=(2, 1, 4, 4)).astype(np.float32)
    predictor = Predictor(bundle, hot_set=hot_set)

    for _ in range(4):
        logits = predictor.logits(arrays, queries, stored)

    wanted = queries.reshape(2, 16) @ arrays.parameters["head.weight"].T + 1
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    assert hot_set.candidate_count == 0
    hot_set.close()


MAPS = "float[n,3,4,4] maps"
GIVES_BOTH = """
    maps = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(images)
    flat = Flatten<axis=1>(images)
    start = Constant<value = int64[1] {0}>()
    end = Constant<value = int64[1] {60}>()
    axis = Constant<value = int64[1] {1}>()
    part = Slice(flat, start, end, axis)
    shape = Constant<value = int64[4] {-1, 60, 1, 1}>()
    encoded = Reshape(part, shape)"""


def with_encoder(bundle: Bundle, root: Path, content: bytes) -> Bundle:
    stored, manifest = BatchNormMode.STORED, replace(bundle.manifest, files={})
    templates = {stored: bundle.template_path(stored).read_bytes()}
    weights, tail = bundle.read_weights(), bundle.read_tail()
    return write_bundle(root, manifest, weights, templates, "# t\n", encoder=content, tail=tail)


def test_maps_are_those_of_the_encoder(tail_bundle: Bundle) -> None:
    made = Encoder(tail_bundle, Runtime())
    images = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)

    assert made.maps is not None
    maps = made.maps.of(images)
    assert maps.shape == (3, *made.maps.shape) == (3, 3, 4, 4)
    np.testing.assert_allclose(maps.reshape(3, -1), made.encode(images)[:, 12:, 0, 0], atol=1e-6)
    assert made.maps.seconds > 0


def test_only_what_maps_need_is_computed(tail_bundle: Bundle) -> None:
    """ONNX Runtime computes a whole graph, whatever outputs are asked for."""
    part = part_for_maps(tail_bundle.path / "encoder.onnx").graph

    assert [node.op_type for node in part.node] == ["AveragePool"]
    assert [value.name for value in (*part.input, *part.output)] == ["images", "maps"]


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ("float[n,60,1,1] encoded", r"\(n, 3, 4, 4\), got encoded tensor"),
        ("float[n,60,1,1] encoded, float[n,3,4,4] other", r"got encoded .*; other "),
        ("float[n,60,1,1] encoded, float[n,3,2,8] maps", r"got .*maps .*'n', 3, 2, 8"),
        ("float[n,60,1,1] encoded, float[2,3,4,4] maps", r"got .*maps .*2, 3, 4, 4"),
    ],
)
def test_an_encoder_without_the_maps_of_a_tail_is_refused(
    tail_bundle: Bundle, tmp_path: Path, outputs: str, problem: str
) -> None:
    body = GIVES_BOTH.replace("maps =", "other =") if "other" in outputs else GIVES_BOTH
    if "3,2,8" in outputs:
        body = body.replace("[2, 2], strides = [2, 2]", "[4, 1], strides = [4, 1]")
    content = encoder("float[n,3,8,8] images", outputs, body, opset=20)
    bundle = with_encoder(tail_bundle, tmp_path, content)

    expected = "encoder.onnx: output: expected encoded, .* and maps, .*"
    with pytest.raises(BundleError, match=expected + problem):
        Catalog.load([bundle.path])


def test_an_encoder_of_a_start_may_give_maps_that_nobody_takes(
    tail_bundle: Bundle, tmp_path: Path
) -> None:
    """As `kshot train --start` writes it behind the encoder of `photos`."""
    own = tail_bundle.manifest
    head = replace(own, tail=None, scope=ScopePolicy(Scope.HEAD, (Scope.HEAD,)), files={})
    template = tail_bundle.template_path(BatchNormMode.STORED).read_bytes()
    bundle = write_bundle(
        tmp_path,
        head,
        tail_bundle.read_weights(),
        {BatchNormMode.STORED: template},
        "",
        encoder=(tail_bundle.path / "encoder.onnx").read_bytes(),
    )

    encoder = Catalog.load([bundle.path]).find("tailed").encoder

    assert encoder is not None
    assert encoder.maps is None
    assert encoder.encode(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 60, 1, 1)


def test_crops_are_measured_by_the_best_of_some_runs(
    monkeypatch: pytest.MonkeyPatch, tail_bundle: Bundle
) -> None:
    """One that was disturbed does not count."""
    ticks = iter([0, 80, 100, 108, 200, 280, 300, 380])
    monkeypatch.setattr(encoder_module.time, "thread_time", lambda: next(ticks))
    made = Encoder(tail_bundle, Runtime())

    assert made.maps is not None
    assert made.maps.seconds == 1  # of 8 crops
