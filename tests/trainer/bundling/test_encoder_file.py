from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnxruntime
import pytest

from kshot.trainer.bundling.encoder_file import read_encoder
from kshot.trainer.errors import EncoderError

SHAPE = (3, 6, 4)
IMAGES = "float[n,3,6,4] pixels"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an ONNX file from ONNX's own notation; its weights are named `w`, `(5, 3, 3, 3)`."""

    def make(
        body: str,
        outputs: str = "float[n,5] y",
        inputs: str = IMAGES,
        opset: str = '"" : 20',
        functions: str = "",
    ) -> Path:
        text = f"<ir_version: 10, opset_import: [{opset}]> net ({inputs}) => ({outputs}) "
        model = onnx.parser.parse_model(f"{text} {{ {body} }} {functions}")
        weights = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
        path = tmp_path / "net.onnx"
        onnx.save(model, path)
        return path

    return make


CONVOLVED = "maps = Conv<pads = [1, 1, 1, 1]>(pixels, w)"
FEATURES = f"{CONVOLVED} means = GlobalAveragePool(maps) y = Flatten<axis = 1>(means)"


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *SHAPE)).astype(np.float32)


def wanted(path: Path, value: str) -> np.ndarray:
    """Run a file as it is, for one of its outputs."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run([value], {session.get_inputs()[0].name: images()})
    return np.asarray(found)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (FEATURES, "float[n,5] y"),
        (f"{CONVOLVED} y = GlobalAveragePool(maps)", "float[n,5,1,1] y"),
        (f"{CONVOLVED} y = Relu(maps)", "float[n,5,6,4] y"),
    ],
    ids=["features", "pooled maps", "maps"],
)
def test_an_encoder_gives_features(write: Write, body: str, outputs: str) -> None:
    """Maps are averaged over their sides; names and shapes are the bundle's."""
    path = write(body, outputs)

    encoder = read_encoder(path, SHAPE)

    own = wanted(path, "y")
    own = own.mean(axis=(2, 3)) if own.ndim == 4 else own
    np.testing.assert_allclose(encoder.run(images()), own[:, :, None, None], atol=1e-5)
    assert encoder.output_shape == (5, 1, 1)
    session = onnxruntime.InferenceSession(encoder.content)
    (given,), (encoded,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["n", *SHAPE])
    assert (encoded.name, encoded.shape) == ("encoded", ["n", 5, 1, 1])
    assert onnx.load_from_string(encoder.content).opset_import[0].version == 20


def test_a_cut_encodes_a_value_between(write: Write) -> None:
    path = write(f"{FEATURES} two = Add(y, y)", "float[n,5] two, float[n,5] y")

    encoder = read_encoder(path, SHAPE, cut="maps")

    np.testing.assert_allclose(encoder.run(images())[:, :, 0, 0], wanted(path, "y"), atol=1e-5)
    assert [node.op_type for node in onnx.load_from_string(encoder.content).graph.node] == [
        "Conv",
        "GlobalAveragePool",
    ]


def test_maps_may_stay(write: Write) -> None:
    """For a network behind the encoder that goes on from there."""
    path = write(f"{CONVOLVED} y = Relu(maps)", "float[n,5,6,4] y")

    encoder = read_encoder(path, SHAPE, pooled=False)

    assert encoder.output_shape == (5, 6, 4)
    np.testing.assert_allclose(encoder.run(images()), wanted(path, "y"), atol=1e-5)


def test_an_older_opset_is_converted(write: Write) -> None:
    path = write(FEATURES, opset='"" : 13')

    encoder = read_encoder(path, SHAPE)

    np.testing.assert_allclose(encoder.run(images())[:, :, 0, 0], wanted(path, "y"), atol=1e-5)


def test_names_of_the_bundle_may_be_taken(write: Write) -> None:
    """By values inside, and by the output for the input."""
    body = (
        "images = Conv<pads = [1, 1, 1, 1]>(encoded, w) maps = GlobalAveragePool(images) "
        "pixels = Flatten<axis = 1>(maps)"
    )
    path = write(body, "float[n,5] pixels", "float[n,3,6,4] encoded")

    encoder = read_encoder(path, SHAPE)

    np.testing.assert_allclose(encoder.run(images())[:, :, 0, 0], wanted(path, "pixels"), atol=1e-5)


def test_functions_of_the_model_are_its_own(write: Write) -> None:
    """Exporters of torch make them; operators of other domains that they do not define are not."""
    own = '<domain: "own", opset_import: ["" : 20]> pool (x) => (y) { y = GlobalAveragePool(x) }'
    body = f"{CONVOLVED} y = own.pool(maps)"
    path = write(body, "float[n,5,1,1] y", opset='"" : 20, "own" : 1', functions=own)

    encoder = read_encoder(path, SHAPE)

    assert encoder.output_shape == (5, 1, 1)
    assert not onnx.load_from_string(encoder.content).functions


def test_a_fixed_batch_is_made_free(write: Write) -> None:
    path = write(FEATURES, "float[1,5] y", "float[1,3,6,4] pixels")

    assert len(read_encoder(path, SHAPE).run(images())) == 4


def external(path: Path, location: str) -> None:
    """Move the weights of a model to another file."""
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    file = path.parent / location
    if file.parent.is_dir():
        file.write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


def test_external_data_beside_the_file_is_folded_in(write: Write) -> None:
    path = write(FEATURES)
    inside = read_encoder(path, SHAPE)
    external(path, "weights.bin")

    assert read_encoder(path, SHAPE) == inside


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("../weights.bin", "expected external data in the folder of the model, got '../weights"),
        ("/etc/hostname", "expected external data in the folder of the model, got '/etc/hostname'"),
        ("no/weights.bin", "the file of its external data is missing: 'no/weights.bin'"),
    ],
)
def test_external_data_elsewhere_is_refused(write: Write, location: str, problem: str) -> None:
    path = write(FEATURES)
    model = onnx.load(path)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())

    with pytest.raises(EncoderError, match=problem):
        read_encoder(path, SHAPE)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"body": "y = Relu(pixels)", "inputs": "float[n,3,8,8] pixels"},
            r"input pixels: expected float of shape \['n', 3, 6, 4\] .*, got float .*3, 8, 8",
        ),
        (
            {"body": "y = Relu(pixels)", "inputs": "float16[n,3,6,4] pixels"},
            "input pixels: expected float .*, got float16",
        ),
        (
            {"body": "y = Relu(pixels)", "inputs": "float[n,6,4,3] pixels"},
            r"input pixels: .*, got float of shape \['n', 6, 4, 3\]",
        ),
        (
            {"body": FEATURES, "inputs": f"{IMAGES}, float[n] other"},
            "expected one input, got 2: pixels, other",
        ),
        (
            {"body": FEATURES, "outputs": "float[n,5] y, float[n,5,6,4] maps"},
            "expected one output, got 2: y, maps; name one of them by --cut",
        ),
        (
            {
                "body": "y = com.other.Fancy(pixels)",
                "opset": '"" : 20, "com.other" : 1',
            },
            "expected ONNX's own operators alone, got custom operators: com.other::Fancy",
        ),
        (
            {"body": "y = Flatten<axis = 0>(pixels)", "outputs": "float[1,m] y"},
            r"output y: expected a row for each of 3 images, got shape \(1, 216\)",
        ),
        (
            {
                "body": "s = Constant<value = int64[2] {1, 72}>() y = Reshape(pixels, s)",
                "outputs": "float[1,72] y",
            },
            "does not run on batches of 1 and of 3 images; export it with a dynamic batch axis",
        ),
        (
            {
                "body": "m = Constant<value = int64[1] {3}>() "
                "y = ReduceMean<keepdims = 0>(pixels, m)",
                "outputs": "float[n,3,6] y",
            },
            r"output y: expected features .*, got shape \['n', 3, 6\]; choose another value by",
        ),
        (
            {
                "body": "m = Constant<value = int64[1] {0}>() mean = ReduceMean(pixels, m) "
                "c = Sub(pixels, mean) y = GlobalAveragePool(c)",
                "outputs": "float[n,3,1,1] y",
            },
            "expected each image to be encoded by itself.*export the model in evaluation mode",
        ),
        (
            {"body": "y = ArgMax<axis = 1>(pixels)", "outputs": "int64[n,1,6,4] y"},
            "output y: expected float32, got int64",
        ),
        (
            {
                "body": "z = Sub(pixels, pixels) y0 = Div(z, z) y = GlobalAveragePool(y0)",
                "outputs": "float[n,3,1,1] y",
            },
            "gives numbers that are not finite",
        ),
    ],
)
def test_what_is_no_encoder_is_refused(
    write: Write, settings: dict[str, str], problem: str
) -> None:
    path = write(**{"outputs": "float[n,3,6,4] y", **settings})

    with pytest.raises(EncoderError, match=f"net.onnx: {problem}"):
        read_encoder(path, SHAPE)


def test_a_cut_that_is_not_there_is_refused(write: Write) -> None:
    with pytest.raises(EncoderError, match="--cut: no value 'map' in the graph; similar: maps"):
        read_encoder(write(FEATURES), SHAPE, cut="map")


def test_functions_that_call_each_other_are_refused(write: Write) -> None:
    endless = '<domain: "local", opset_import: ["local" : 1]> f (x) => (y) { y = local.f(x) }'
    path = write("y = local.f(pixels)", opset='"" : 20, "local" : 1', functions=endless)

    with pytest.raises(EncoderError, match="cannot be inlined"):
        read_encoder(path, SHAPE)


def test_an_unknown_type_is_named(write: Write) -> None:
    path = write(FEATURES)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = 256
    onnx.save(model, path)

    with pytest.raises(EncoderError, match="got the unknown type 256"):
        read_encoder(path, SHAPE)


def test_names_that_are_no_text_are_refused(write: Write) -> None:
    path = write(FEATURES)
    path.write_bytes(path.read_bytes().replace(b"means", b"m\xff\xffns"))

    with pytest.raises(EncoderError, match="a name is not UTF-8"):
        read_encoder(path, SHAPE)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no protobuf at all")

    with pytest.raises(EncoderError, match="expected an ONNX model, got something else"):
        read_encoder(path, SHAPE)
    with pytest.raises(EncoderError, match="cannot be read: No such file"):
        read_encoder(tmp_path / "missing.onnx", SHAPE)
