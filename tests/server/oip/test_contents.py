from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.errors import InvalidRequest
from kshot.server.oip.contents import read_images
from kshot.server.request.inputs import EncodedImages, Images, TensorImages
from kshot.server.request.violations import Violations

Tensor = wire.ModelInferRequest.InferInputTensor
Contents = wire.InferTensorContents
FILES = (b"one", b"", b"three")


def image_input(datatype: str = "UINT8", shape: tuple[int, ...] = (2, 2, 2), **more: Any) -> Tensor:  # noqa: ANN401 -- any field
    return Tensor(**({"name": "images", "datatype": datatype, "shape": shape} | more))


def request(*tensors: Tensor, raw: tuple[bytes, ...] = ()) -> wire.ModelInferRequest:
    return wire.ModelInferRequest(inputs=tensors, raw_input_contents=raw)


def read(asked: wire.ModelInferRequest) -> Images | None:
    violations = Violations()
    images = read_images(asked, 100, violations)
    violations.check()
    return images


def problems(asked: wire.ModelInferRequest) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(asked)
    return {each.field: each.description for each in caught.value.violations}


def behind_lengths(*items: bytes) -> bytes:
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def test_raw_and_typed_contents_are_the_same_images() -> None:
    levels = np.array([0, 1, 127, 128, 200, 255, 3, 4], np.uint8).reshape(2, 2, 2)
    numbers = np.linspace(0, 1, 8, dtype="<f4").reshape(2, 1, 2, 2)
    for datatype, array, contents in (
        ("UINT8", levels, Contents(uint_contents=levels.ravel().tolist())),
        ("FP32", numbers, Contents(fp32_contents=numbers.ravel().tolist())),
    ):
        wanted = TensorImages(datatype, array.shape, array.tobytes())
        tensor = image_input(datatype, array.shape)

        assert read(request(tensor, raw=(array.tobytes(),))) == wanted
        assert read(request(image_input(datatype, array.shape, contents=contents))) == wanted


def test_files_are_bytes() -> None:
    """Raw, each stands behind its length in four bytes."""
    typed = image_input("BYTES", (3,), contents=Contents(bytes_contents=FILES))
    raw = request(image_input("BYTES", (3,)), raw=(behind_lengths(*FILES),))

    assert read(raw) == read(request(typed)) == EncodedImages(FILES)


RAW = bytes(8)
NO_MATCH: dict[str, tuple[wire.ModelInferRequest, set[str]]] = {
    "no input": (request(), {"inputs"}),
    "another input": (request(image_input(name="x"), raw=(RAW,)), {"inputs[0].name"}),
    "several inputs": (
        request(image_input(), image_input(name="mask", datatype="FP16"), raw=(RAW, RAW)),
        {"inputs", "inputs[1].name", "inputs[1].datatype"},
    ),
    "another datatype": (
        request(image_input("INT8", contents=Contents(int_contents=[1] * 8))),
        {"inputs[0].datatype"},
    ),
    "no contents": (request(image_input()), {"inputs[0].contents.uint_contents"}),
    "contents of another datatype": (
        request(image_input(contents=Contents(fp32_contents=[0.5] * 8))),
        {"inputs[0].contents.fp32_contents", "inputs[0].contents.uint_contents"},
    ),
    "too few elements": (
        request(image_input(contents=Contents(uint_contents=[1] * 7))),
        {"inputs[0].contents.uint_contents"},
    ),
    "a level above 255": (
        request(image_input(contents=Contents(uint_contents=[0, 256] * 4))),
        {"inputs[0].contents.uint_contents[1]"},
    ),
    "both contents": (
        request(image_input(contents=Contents(uint_contents=[1] * 8)), raw=(RAW,)),
        {"inputs[0].contents"},
    ),
    "raw contents of another number": (
        request(image_input(), raw=(RAW, RAW)),
        {"raw_input_contents"},
    ),
    "no axes": (request(image_input(shape=()), raw=(RAW,)), {"inputs[0].shape"}),
    "a negative axis": (request(image_input(shape=(-2, -2, 2)), raw=(RAW,)), {"inputs[0].shape"}),
    "too many images": (request(image_input(shape=(101, 2, 2)), raw=(RAW,)), {"inputs[0].shape"}),
    "files in rows": (
        request(image_input("BYTES", (3, 1)), raw=(behind_lengths(*FILES),)),
        {"inputs[0].shape"},
    ),
    "parameters": (
        request(image_input(parameters={"a": wire.InferParameter(bool_param=True)}), raw=(RAW,)),
        {"inputs[0].parameters[a]"},
    ),
}


@pytest.mark.parametrize("name", NO_MATCH)
def test_inputs_that_do_not_fit(name: str) -> None:
    asked, fields = NO_MATCH[name]

    assert set(problems(asked)) == fields


@pytest.mark.parametrize(
    "content",
    [
        behind_lengths(*FILES)[:-1],
        behind_lengths(*FILES) + b"x",
        behind_lengths(*FILES, b""),
        behind_lengths(*FILES[:2]),
        b"\xff\xff\xff\xff" + b"x" * 20,
        b"abc",
    ],
    ids=["cut", "a byte more", "a file more", "a file less", "a long length", "no length"],
)
def test_files_whose_lengths_do_not_fit(content: bytes) -> None:
    assert set(problems(request(image_input("BYTES", (3,)), raw=(content,)))) == {
        "raw_input_contents[0]"
    }


@pytest.mark.parametrize("kind", ["inputs", "parameters"])
def test_many_problems_are_few_words(kind: str) -> None:
    """A request may have thousands of inputs."""
    many: Any = {f"{number}": wire.InferParameter() for number in range(3000)}
    asked = request(*[image_input(name="x")] * 3000)
    if kind == "parameters":
        asked = request(image_input(parameters=many), raw=(RAW,))

    assert len(problems(asked)) < 40
