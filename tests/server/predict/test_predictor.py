from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Bundle,
    BundleError,
    builtin_bundle,
    load_bundle,
    write_bundle,
)
from kshot.server.predict import predictor as predictor_module
from kshot.server.predict.export import export_model
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.prediction import softmax
from kshot.server.predict.predictor import Predictor
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.model_cache import CachedModel, ModelCache
from kshot.server.store.store import LocalStore

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]


def reference(arrays: AdaptedArrays, inputs: Floats, mode: BatchNormMode) -> Floats:
    """Compute the linear network's logits plainly, one query after another."""
    flat, support = inputs.reshape(-1, 16), arrays.support.reshape(-1, 16)
    rows = []
    for query in flat:
        batch = {
            BatchNormMode.TRANSDUCTIVE: flat,
            BatchNormMode.SUPPORT: support,
            BatchNormMode.SUPPORT_AND_QUERY: np.vstack([support, query]),
        }[mode]
        whitened = (query - batch.mean(axis=0)) / np.sqrt(batch.var(axis=0) + 1e-3)
        features = whitened * arrays.parameters["norm.scale"] + arrays.parameters["norm.shift"]
        rows.append(features @ arrays.parameters["head.weight"].T + arrays.parameters["head.bias"])
    return np.array(rows, np.float32)


def queries(count: int, seed: int = 9) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, 1, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Bundle) -> Predictor:
    return Predictor(tiny_bundle)


@pytest.mark.parametrize("mode", COMPUTED_MODES)
@pytest.mark.parametrize("way", [2, 5, 20])
@pytest.mark.parametrize("query_count", [1, 25])
@pytest.mark.parametrize("support_count", [2, 100])
def test_logits_are_those_of_the_network(
    predictor: Predictor,
    make_arrays: MakeArrays,
    mode: BatchNormMode,
    way: int,
    query_count: int,
    support_count: int,
) -> None:
    arrays = make_arrays(way, way=way, support_count=support_count)
    inputs = queries(query_count)
    logits = predictor.logits(arrays, inputs, mode)

    assert logits.shape == (query_count, way)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference(arrays, inputs, mode), atol=1e-4)


@pytest.mark.parametrize("mode", [BatchNormMode.SUPPORT, BatchNormMode.SUPPORT_AND_QUERY])
def test_answers_are_independent(
    predictor: Predictor, make_arrays: MakeArrays, mode: BatchNormMode
) -> None:
    arrays = make_arrays()
    inputs = queries(12)
    together = predictor.logits(arrays, inputs, mode)
    alone = [predictor.logits(arrays, inputs[index : index + 1], mode)[0] for index in range(12)]
    turned = predictor.logits(arrays, inputs[::-1].copy(), mode)[::-1]

    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, turned, atol=1e-5)


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_large_requests_run_in_chunks(
    predictor: Predictor,
    make_arrays: MakeArrays,
    mode: BatchNormMode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Queries of `transductive` mode are never split: they are normalised together."""
    arrays = make_arrays(support_count=7)
    inputs = queries(33)
    run_sizes: list[int] = []
    run = predictor_module._run

    def counted(session: object, feeds: dict[str, Floats], images_per_query: int) -> Floats:
        run_sizes.append(len(feeds["inputs"]) * images_per_query)
        return run(session, feeds, images_per_query)

    monkeypatch.setattr(predictor, "run_images", 32)
    monkeypatch.setattr(predictor_module, "_run", counted)
    logits = predictor.logits(arrays, inputs, mode)

    np.testing.assert_allclose(logits, reference(arrays, inputs, mode), atol=1e-4)
    if mode is BatchNormMode.TRANSDUCTIVE:
        assert run_sizes == [33]
    else:
        assert len(run_sizes) > 1
        assert max(run_sizes) <= 32


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_threads_with_own_models_get_own_answers(
    predictor: Predictor, make_arrays: MakeArrays, mode: BatchNormMode
) -> None:
    """One session serves all adapted models: nobody may be answered with another's weights."""
    models = [make_arrays(seed, way=2 + seed % 4) for seed in range(12)]
    inputs = queries(5)
    alone = [predictor.logits(arrays, inputs, mode) for arrays in models]

    with ThreadPoolExecutor(6) as pool:
        turns = [turn % 12 for turn in range(240)]
        answers = list(pool.map(lambda turn: predictor.logits(models[turn], inputs, mode), turns))

    for turn, answer in zip(turns, answers, strict=True):
        np.testing.assert_array_equal(answer, alone[turn])


def test_a_support_set_beyond_one_run_still_answers(
    predictor: Predictor, make_arrays: MakeArrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor_module, "MAX_RUN_IMAGES", 4)
    arrays = make_arrays(support_count=9)
    logits = predictor.logits(arrays, queries(3), BatchNormMode.SUPPORT_AND_QUERY)

    assert logits.shape == (3, 5)


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_stored_arrays_answer_the_same(
    predictor: Predictor,
    make_arrays: MakeArrays,
    make_model: MakeModel,
    tmp_path: Path,
    mode: BatchNormMode,
) -> None:
    """They are read-only views of a file's content, wherever in it they begin."""
    arrays = make_arrays(2, way=3)
    with LocalStore.open(tmp_path, max_count=1, max_bytes=10**6, clock=lambda: 0.0) as store:
        store.put(make_model(way=3), arrays)
        read = store.read("a1")

    np.testing.assert_array_equal(
        predictor.logits(read, queries(4), mode), predictor.logits(arrays, queries(4), mode)
    )


@pytest.fixture
def hot_set() -> Iterator[HotSet]:
    """A set that makes sessions at the second request."""
    hot_set = HotSet(8, after_images=1)
    yield hot_set
    hot_set.close()


def settle(hot_set: HotSet) -> None:
    """Wait until all sessions that are due are made."""
    hot_set._builder.submit(lambda: None).result(60)


def trained_arrays(seed: int, way: int) -> tuple[Bundle, AdaptedArrays]:
    """Return the built-in bundle, and an adapted model of it with statistics of random images."""
    bundle = load_bundle(builtin_bundle("omniglot"))
    random = np.random.default_rng(seed)
    parameters = {
        name: (array[np.arange(way) % len(array)] if name.startswith("head.") else array)
        + random.normal(scale=0.02, size=array[:1].shape).astype(np.float32)
        for name, array in bundle.read_weights().parameters.items()
    }
    template = onnx.load(bundle.template_path(BatchNormMode.SUPPORT))
    statistics = {
        value.name: random.uniform(0.5, 2, value.type.tensor_type.shape.dim[0].dim_value).astype(
            np.float32
        )
        for value in template.graph.input
        if value.name.endswith((".mean", ".variance"))
    }
    support = random.random((way, 1, 28, 28), dtype=np.float32)
    return bundle, AdaptedArrays(parameters, statistics, support)


@pytest.mark.parametrize("mode", COMPUTED_MODES)
@pytest.mark.parametrize("way", [2, 5, 20])
def test_a_session_of_its_own_answers_as_the_template(
    hot_set: HotSet, mode: BatchNormMode, way: int
) -> None:
    bundle, arrays = trained_arrays(way, way)
    cold, hot = Predictor(bundle), Predictor(bundle, hot_set=hot_set)
    for _ in range(2):
        hot.logits(arrays, np.zeros((2, 1, 28, 28), np.float32), mode)
    settle(hot_set)
    assert len(hot_set) == 1

    for count in (1, 2, 25):
        inputs = np.random.default_rng(count).random((count, 1, 28, 28), dtype=np.float32)
        got, wanted = hot.logits(arrays, inputs, mode), cold.logits(arrays, inputs, mode)
        np.testing.assert_allclose(softmax(got), softmax(wanted), atol=1e-5, rtol=0)
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)
        np.testing.assert_array_equal(got.argmax(axis=1), wanted.argmax(axis=1))


def test_a_network_without_statistics_ignores_support(
    hot_set: HotSet,
    tiny_bundle: Bundle,
    make_arrays: MakeArrays,
    make_model: MakeModel,
    tmp_path: Path,
) -> None:
    """Its template takes all that others take: so do sessions of its own, and its export."""
    mode = BatchNormMode.SUPPORT_AND_QUERY
    template = onnx.load(tiny_bundle.template_path(mode))
    plain = onnx.parser.parse_graph(
        "plain (float[query_count,1,4,4] inputs, float[way,16] weight, float[way] bias)"
        " => (float[query_count,way] logits)"
        " { x = Flatten<axis=1>(inputs) logits = Gemm<transB=1>(x, weight, bias) }"
    )
    del template.graph.node[:]
    template.graph.node.extend(plain.node)
    renamed = {"weight": "head.weight", "bias": "head.bias"}
    for node in template.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    bundle = rewritten(tiny_bundle, tmp_path, mode, template.SerializeToString())
    arrays, inputs = make_arrays(way=3), queries(4)
    wanted = inputs.reshape(4, 16) @ arrays.parameters["head.weight"].T
    wanted += arrays.parameters["head.bias"]

    hot = Predictor(bundle, hot_set=hot_set)
    for _ in range(2):
        np.testing.assert_allclose(hot.logits(arrays, inputs, mode), wanted, atol=1e-5)
    settle(hot_set)
    assert len(hot_set) == 1
    np.testing.assert_allclose(hot.logits(arrays, inputs, mode), wanted, atol=1e-5)
    exported = onnx.load_from_string(export_model(bundle, arrays, make_model(way=3), mode))
    assert {tensor.name for tensor in exported.graph.initializer} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_arrays_from_the_store_make_sessions_too(
    hot_set: HotSet,
    tiny_bundle: Bundle,
    make_arrays: MakeArrays,
    make_model: MakeModel,
    tmp_path: Path,
    mode: BatchNormMode,
) -> None:
    """They are read-only views of a file's content, wherever in it they begin."""
    hot, arrays = Predictor(tiny_bundle, hot_set=hot_set), make_arrays(2, way=3)
    with LocalStore.open(tmp_path, max_count=1, max_bytes=10**6, clock=lambda: 0.0) as store:
        store.put(make_model(way=3), arrays)
        read = store.read("a1")
    for _ in range(2):
        hot.logits(read, queries(1), mode)
    settle(hot_set)

    assert len(hot_set) == 1
    np.testing.assert_allclose(
        hot.logits(read, queries(4), mode), reference(arrays, queries(4), mode), atol=1e-4
    )


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_threads_get_own_answers_as_sessions_change(
    tiny_bundle: Bundle, make_arrays: MakeArrays, mode: BatchNormMode
) -> None:
    """Twelve models share room for three: nobody may be answered with another's weights."""
    few = HotSet(3, after_images=4)
    hot = Predictor(tiny_bundle, hot_set=few)
    models = [make_arrays(seed, way=2 + seed % 4) for seed in range(12)]
    inputs = queries(5)

    with ThreadPoolExecutor(6) as pool:
        turns = [turn // 5 % 12 for turn in range(900)]
        answers = list(pool.map(lambda turn: hot.logits(models[turn], inputs, mode), turns))
    settle(few)
    few.close()

    assert len(few) == 3
    wanted = [reference(arrays, inputs, mode) for arrays in models]
    for turn, answer in zip(turns, answers, strict=True):
        np.testing.assert_allclose(answer, wanted[turn], atol=1e-4)


def test_a_discarded_model_leaves_no_session(
    hot_set: HotSet,
    tiny_bundle: Bundle,
    make_arrays: MakeArrays,
    make_model: MakeModel,
) -> None:
    hot, cache = Predictor(tiny_bundle, hot_set=hot_set), ModelCache(10**6)
    for mode in COMPUTED_MODES:
        for _ in range(3):
            held = cache.get_or_load("a1", lambda: CachedModel(make_model(), make_arrays()))
            hot.logits(held.arrays, queries(2), mode)
    settle(hot_set)
    assert len(hot_set) == len(COMPUTED_MODES)
    gone = weakref.ref(hot_set.find(held.arrays, BatchNormMode.SUPPORT, 1, no_session))
    del held
    cache.discard("a1")

    assert (cache.used_bytes, len(hot_set), hot_set.candidate_count) == (0, 0, 0)
    assert gone() is None


def no_session(_: AdaptedArrays) -> Any:  # noqa: ANN401 -- never returns
    raise AssertionError("made although it was there")


def rewritten(bundle: Bundle, root: Path, mode: BatchNormMode, template: bytes) -> Bundle:
    templates = {each: bundle.template_path(each).read_bytes() for each in COMPUTED_MODES}
    templates[mode] = template
    manifest = replace(bundle.manifest, files={})
    return write_bundle(root, manifest, bundle.read_weights(), templates, "")


def test_a_template_that_is_no_model_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = rewritten(tiny_bundle, tmp_path, BatchNormMode.SUPPORT, b"not ONNX")

    with pytest.raises(BundleError, match=r"predict_support\.onnx: ONNX Runtime cannot load"):
        Predictor(bundle)


def test_a_template_of_another_network_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    template = onnx.load(tiny_bundle.template_path(BatchNormMode.SUPPORT)).SerializeToString()
    bundle = rewritten(tiny_bundle, tmp_path, BatchNormMode.TRANSDUCTIVE, template)

    with pytest.raises(BundleError, match=r"predict_transductive\.onnx: .*unknown .*norm"):
        Predictor(bundle)


def test_a_template_that_lacks_a_parameter_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    template = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> '
        "predict (float[query_count,1,4,4] inputs) => (float[query_count,16] logits) "
        "{ logits = Flatten<axis=1>(inputs) }"
    )
    bundle = rewritten(tiny_bundle, tmp_path, BatchNormMode.SUPPORT, template.SerializeToString())

    with pytest.raises(BundleError, match=r"missing .*head\.weight"):
        Predictor(bundle)


def test_only_the_allowed_modes_are_loaded(tiny_bundle: Bundle, make_arrays: MakeArrays) -> None:
    batch_norm = replace(tiny_bundle.manifest.batch_norm, allowed=(BatchNormMode.SUPPORT,))
    bundle = replace(tiny_bundle, manifest=replace(tiny_bundle.manifest, batch_norm=batch_norm))
    predictor = Predictor(bundle)

    assert predictor.logits(make_arrays(), queries(2), BatchNormMode.SUPPORT).shape == (2, 5)
    with pytest.raises(KeyError):
        predictor.logits(make_arrays(), queries(2), BatchNormMode.TRANSDUCTIVE)


def with_tail(bundle: Bundle, mix: tuple[float, float], way: int = 3) -> AdaptedArrays:
    tail, random = bundle.read_tail(), np.random.default_rng(way)
    assert tail is not None
    parameters = {
        "head.weight": random.normal(size=(way, 12)).astype(np.float32),
        "head.bias": np.zeros(way, np.float32),
        **tail.parameters,
        "tail.classes": random.normal(size=(way, 8)).astype(np.float32),
        "tail.mix": np.array(mix, np.float32),
    }
    return AdaptedArrays(parameters, {}, np.empty((3, 0, 1, 1), np.float32))


def without_tail(arrays: AdaptedArrays) -> AdaptedArrays:
    head = {name: each for name, each in arrays.parameters.items() if name.startswith("head.")}
    return replace(arrays, parameters=head)


def log_probabilities(logits: Floats) -> Floats:
    return np.log(softmax(logits))


def test_a_tail_answers_beside_the_head(hot_set: HotSet, tail_bundle: Bundle) -> None:
    """Arrays without one are a head alone, of the same bundle, and get no session."""
    stored, predictor = BatchNormMode.STORED, Predictor(tail_bundle, hot_set=hot_set)
    both = with_tail(tail_bundle, (0.6, 0.4))
    head, alone = without_tail(both), with_tail(tail_bundle, (0.0, 1.0))
    inputs = np.random.default_rng(0).normal(size=(6, 60, 1, 1)).astype(np.float32)

    def answered(arrays: AdaptedArrays) -> Floats:
        return predictor.logits(arrays, inputs, stored)

    wanted = 0.6 * log_probabilities(answered(head)) + 0.4 * answered(alone)
    plain = answered(both)
    np.testing.assert_allclose(plain, wanted, atol=1e-5)
    assert predictor.head_alone(head) and not predictor.head_alone(both)
    for arrays in (both, head):
        for _ in range(6):
            answered(arrays)
    settle(hot_set)
    assert len(hot_set) == 1
    np.testing.assert_allclose(answered(both), plain, atol=1e-5)


def test_a_template_of_another_tail_is_refused(tail_bundle: Bundle, tmp_path: Path) -> None:
    stored, tail = BatchNormMode.STORED, tail_bundle.read_tail()
    assert tail is not None
    template = tail_bundle.template_path(stored).read_bytes()
    bundle = write_bundle(
        tmp_path,
        replace(tail_bundle.manifest, files={}),
        tail_bundle.read_weights(),
        {stored: template},
        "",
        encoder=(tail_bundle.path / "encoder.onnx").read_bytes(),
        tail=replace(tail, template=template),
    )

    with pytest.raises(BundleError, match=r"predict_tail\.onnx: .*missing .*tail\.blocks"):
        Predictor(bundle)
