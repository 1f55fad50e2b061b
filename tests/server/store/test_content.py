from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from kshot.server.store.adapted_model import AdaptedArrays
from kshot.server.store.content import arrays_bytes, parse_arrays

MakeArrays = Callable[..., AdaptedArrays]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def with_tail(make_arrays: MakeArrays, weight: Floats) -> AdaptedArrays:
    arrays = make_arrays()
    tail = {
        "tail.last.weight": weight,
        "tail.classes": np.full((5, 8), 0.5, np.float32),
        "tail.mix": np.array([1 / 1.3, 0.3 / 1.3], np.float32),
    }
    return replace(arrays, parameters={**arrays.parameters, **tail})


def halves(shape: tuple[int, ...]) -> Floats:
    random = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return random.astype(np.float16).astype(np.float32)


def test_a_tail_takes_half_the_bytes_and_keeps_its_numbers(make_arrays: MakeArrays) -> None:
    arrays = with_tail(make_arrays, halves((300, 10)))
    content = arrays_bytes(arrays)
    kept = {name: str(each.dtype) for name, each in safetensors.numpy.load(content).items()}
    got = parse_arrays(content)

    assert kept["parameters.tail.last.weight"] == kept["parameters.tail.classes"] == "float16"
    assert kept["parameters.tail.mix"] == kept["parameters.head.weight"] == "float32"
    assert len(content) < arrays.size_bytes - 2 * 2500
    assert got.has_tail and got.parameters.keys() == arrays.parameters.keys()
    for name, array in got.parameters.items():
        assert array.dtype == np.float32 and not array.flags.writeable
        np.testing.assert_array_equal(array, arrays.parameters[name])
    assert got.size_bytes == arrays.size_bytes


@pytest.mark.parametrize("number", [0.1, 7e4, 1e-9])
def test_numbers_that_are_not_those_of_float16_stay(make_arrays: MakeArrays, number: float) -> None:
    """A file never changes an answer, whoever made the arrays."""
    arrays = with_tail(make_arrays, np.array([[0.5, number]], np.float32))
    got = parse_arrays(arrays_bytes(arrays)).parameters["tail.last.weight"]

    np.testing.assert_array_equal(got, arrays.parameters["tail.last.weight"])


def test_arrays_without_a_tail_are_written_as_before(make_arrays: MakeArrays) -> None:
    arrays = make_arrays()
    content = safetensors.numpy.load(arrays_bytes(arrays))

    assert {str(array.dtype) for array in content.values()} == {"float32"}
    assert not parse_arrays(arrays_bytes(arrays)).has_tail
