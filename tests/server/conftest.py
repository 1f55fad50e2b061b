from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnx.parser
import pytest

from kshot.bundle import (
    BatchNormMode,
    Bundle,
    Calibration,
    EncoderSpec,
    Grayscale,
    Head,
    InputSpec,
    Manifest,
    NetworkSpec,
    Preconditioner,
    Rescale,
    Resize,
    Scope,
    TemperatureRule,
    Weights,
    write_bundle,
)
from kshot.server.request.options import AdaptOptions, Durability
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]

# A linear head over 16 pixels, each normalised over the images. Opset 18.
_HEADER = '<ir_version: 10, opset_import: ["" : 18]> predict ('
_PARAMETERS = (
    'float[16] "norm.scale", float[16] "norm.shift", float[way,16] "head.weight", '
    'float[way] "head.bias"'
)
_RESULT = ") => (float[query_count,way] logits) {"
_QUERIES = "x = Flatten<axis=1>(inputs)"
_HEAD = """
    epsilon = Constant<value = float {0.001}>()
    guarded = Add(variance, epsilon)
    deviation = Sqrt(guarded)
    difference = Sub(x, mean)
    whitened = Div(difference, deviation)
    scaled = Mul(whitened, "norm.scale")
    features = Add(scaled, "norm.shift")
    logits = Gemm<transB=1>(features, "head.weight", "head.bias")
}"""
_TEMPLATES = {
    BatchNormMode.TRANSDUCTIVE: f"""{_HEADER} float[query_count,1,4,4] inputs, {_PARAMETERS}
    {_RESULT} {_QUERIES}
    axes = Constant<value = int64[1] {{0}}>()
    mean = ReduceMean<keepdims=1>(x, axes)
    offset = Sub(x, mean)
    square = Mul(offset, offset)
    variance = ReduceMean<keepdims=1>(square, axes) {_HEAD}""",
    BatchNormMode.SUPPORT: f"""{_HEADER} float[query_count,1,4,4] inputs, {_PARAMETERS},
    float[16] "norm.mean", float[16] "norm.variance" {_RESULT} {_QUERIES}
    mean = Identity("norm.mean")
    variance = Identity("norm.variance") {_HEAD}""",
    BatchNormMode.SUPPORT_AND_QUERY: f"""{_HEADER} float[query_count,1,4,4] inputs, {_PARAMETERS},
    float[support_count,1,4,4] support {_RESULT} {_QUERIES}
    s = Flatten<axis=1>(support)
    zero = Constant<value = int64[1] {{0}}>()
    one = Constant<value = int64[1] {{1}}>()
    query_count = Shape<start=0, end=1>(x)
    rest = Shape(s)
    shape = Concat<axis=0>(query_count, rest)
    first = Unsqueeze(s, zero)
    repeated = Expand(first, shape)
    last = Unsqueeze(x, one)
    together = Concat<axis=1>(repeated, last)
    mean3 = ReduceMean<keepdims=1>(together, one)
    offset = Sub(together, mean3)
    square = Mul(offset, offset)
    variance = ReduceMean<keepdims=0>(square, one)
    mean = Squeeze(mean3, one) {_HEAD}""",
}


@pytest.fixture(scope="session")
def tiny_templates() -> dict[BatchNormMode, bytes]:
    """The three ONNX templates of a linear network, batch statistics written out."""
    return {
        mode: onnx.parser.parse_model(text).SerializeToString() for mode, text in _TEMPLATES.items()
    }


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    manifest: Manifest,
    tiny_templates: dict[BatchNormMode, bytes],
) -> Bundle:
    """A bundle of a linear network on 4 x 4 gray images, 5-way."""
    parameters = {
        "norm.scale": np.ones(16, np.float32),
        "norm.shift": np.zeros(16, np.float32),
        "head.weight": np.zeros((5, 16), np.float32),
        "head.bias": np.zeros(5, np.float32),
    }
    moment = {name: np.ones_like(array) for name, array in parameters.items()}
    weights = Weights(parameters, moment, step=1)
    root = tmp_path_factory.mktemp("bundles")
    steps = (Grayscale(), Resize(4, 4, "nearest"), Rescale(1 / 255))
    linear = replace(manifest, network=NetworkSpec("linear", {}), input=InputSpec((1, 4, 4), steps))
    return write_bundle(root, linear, weights, tiny_templates, "# tiny\n")


@pytest.fixture(scope="session")
def write_version(
    tiny_bundle: Bundle, tiny_templates: dict[BatchNormMode, bytes]
) -> Callable[..., Bundle]:
    """Write the tiny bundle below a folder as `NAME/VERSION`; `step` makes contents differ.

    Other arguments are fields of its manifest.
    """

    def write(root: Path, version: int, step: int = 1, **changed: object) -> Bundle:
        changed = {"version": version, "files": {}, **changed}
        manifest: Manifest = replace(tiny_bundle.manifest, **cast(Any, changed))
        weights = replace(tiny_bundle.read_weights(), step=step)
        return write_bundle(root, manifest, weights, tiny_templates, "# tiny\n")

    return write


@pytest.fixture(scope="session")
def calibrated_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_bundle: Bundle,
    tiny_templates: dict[BatchNormMode, bytes],
) -> Bundle:
    """The tiny bundle with temperatures, in two of its modes, for one example per class and five.

    They are 1.5 and 3 in `support`, 0.25 and 0.75 in `support_and_query`.
    """
    temperatures = {
        BatchNormMode.SUPPORT: (1.5, 3.0),
        BatchNormMode.SUPPORT_AND_QUERY: (0.25, 0.75),
    }
    rules = tuple(
        TemperatureRule(mode, shot, temperature)
        for mode, of_mode in temperatures.items()
        for shot, temperature in zip((1, 5), of_mode, strict=True)
    )
    fitted = Calibration(rules, "val", "d4", 5, task_count=9, query_count=2, step_count=10, seed=0)
    manifest = replace(tiny_bundle.manifest, calibration=fitted, files={})
    root = tmp_path_factory.mktemp("calibrated")
    return write_bundle(root, manifest, tiny_bundle.read_weights(), tiny_templates, "# tiny\n")


def encoder_onnx(sides: tuple[int, int, int] = (1, 8, 8), opset: int = 18) -> bytes:
    """Make an encoder that averages neighbouring pixels: it halves the sides."""
    channels, height, width = sides
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]> encode (
        float[n,{channels},{height},{width}] images
    ) => (float[n,{channels},{height // 2},{width // 2}] encoded) {{
        encoded = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(images)
    }}"""
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.fixture(scope="session")
def make_encoder_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_bundle: Bundle,
    tiny_templates: dict[BatchNormMode, bytes],
) -> Callable[..., Bundle]:
    """Make the tiny bundle behind an encoder: its images are 8 x 8, and averaged to 4 x 4."""

    def make(encoder: bytes | None = None, name: str = "encoded") -> Bundle:
        steps = (Grayscale(), Resize(8, 8, "nearest"), Rescale(1 / 255))
        manifest = replace(
            tiny_bundle.manifest,
            name=name,
            input=InputSpec((1, 8, 8), steps),
            encoder=EncoderSpec((1, 4, 4)),
            files={},
        )
        root = tmp_path_factory.mktemp("encoders")
        weights = tiny_bundle.read_weights()
        content = encoder_onnx() if encoder is None else encoder
        return write_bundle(root, manifest, weights, tiny_templates, "# tiny\n", encoder=content)

    return make


@pytest.fixture(scope="session")
def encoder_bundle(make_encoder_bundle: Callable[..., Bundle]) -> Bundle:
    """A bundle with an encoder."""
    return make_encoder_bundle()


@pytest.fixture(scope="session")
def make_arrays() -> MakeArrays:
    """Make random arrays of the linear network; the seed decides all."""

    def make(seed: int = 0, way: int = 5, support_count: int = 5) -> AdaptedArrays:
        random = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            return random.normal(size=shape).astype(np.float32)

        support = normal(support_count, 1, 4, 4)
        flat = support.reshape(support_count, 16)
        return AdaptedArrays(
            parameters={
                "norm.scale": normal(16),
                "norm.shift": normal(16),
                "head.weight": normal(way, 16),
                "head.bias": normal(way),
            },
            statistics={"norm.mean": flat.mean(axis=0), "norm.variance": flat.var(axis=0)},
            support=support,
        )

    return make


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Make the record of an adapted model."""

    options = AdaptOptions(
        step_count=10,
        learning_rate=0.001,
        batch_size=5,
        preconditioner=Preconditioner.CARRIED,
        head=Head.TRAINED,
        scope=Scope.ALL,
        batch_norm_mode=BatchNormMode.SUPPORT,
        seed=0,
        ttl=1000.0,
        allow_partial=False,
        deterministic=False,
        estimate=True,
        balance_classes=False,
        fold_count=0,
        time_budget=2.0,
        retain_support=True,
        readapt=False,
        durability=Durability.DISK,
    )

    def make(
        model_id: str = "a1",
        create_time: float = 1000.0,
        expire_time: float = 2000.0,
        model: str = "tiny",
        way: int = 5,
    ) -> AdaptedModelRecord:
        return AdaptedModelRecord(
            id=model_id,
            model=model,
            bundle_digest="b" * 64,
            weights_digest="c" * 64,
            adaptation_digest="d" * 64,
            class_names=tuple(
                f"class {index} \N{LATIN SMALL LETTER E WITH ACUTE}" for index in range(way)
            ),
            options=options,
            create_time=create_time,
            expire_time=expire_time,
            size_bytes=0,
            step_count=10,
            support_accuracy=0.8,
        )

    return make


@pytest.fixture
def clock() -> SimpleNamespace:
    """The time of the stores, `now`, which a test sets."""
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the stores of a test lie."""
    return tmp_path / "store"


@pytest.fixture
def open_store(folder: Path, clock: SimpleNamespace) -> Callable[..., LocalStore]:
    """Open the folder as a store."""

    def open_it(max_count: int = 100, max_bytes: int = 10**7) -> LocalStore:
        return LocalStore.open(
            folder, max_count=max_count, max_bytes=max_bytes, clock=lambda: clock.now
        )

    return open_it


@pytest.fixture
def store(open_store: Callable[..., LocalStore]) -> Iterator[LocalStore]:
    """A store that is empty at first."""
    with open_store() as opened:
        yield opened


@pytest.fixture
def file_of(folder: Path) -> Callable[[str], Path]:
    """Return the path of an adapted model's file."""
    return lambda model_id: folder / "models" / f"{model_id}.safetensors"


@pytest.fixture(scope="session")
def assert_same() -> Callable[[AdaptedArrays, AdaptedArrays], None]:
    """Compare arrays bit for bit."""

    def compare(got: AdaptedArrays, wanted: AdaptedArrays) -> None:
        np.testing.assert_array_equal(got.support, wanted.support)
        for part in ("parameters", "statistics"):
            mine, theirs = getattr(got, part), getattr(wanted, part)
            assert mine.keys() == theirs.keys()
            for name in mine:
                assert mine[name].dtype == np.float32
                np.testing.assert_array_equal(mine[name], theirs[name])

    return compare
