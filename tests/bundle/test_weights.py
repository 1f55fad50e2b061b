from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from kshot.bundle import BundleError, Weights
from kshot.bundle.weights import parse_weights, weights_bytes


def test_what_is_written_is_read_back_bit_for_bit(weights: Weights) -> None:
    back = parse_weights(weights_bytes(weights))

    assert back.step == weights.step
    for name, array in weights.parameters.items():
        assert back.parameters[name].dtype == np.float32
        np.testing.assert_array_equal(back.parameters[name], array)
        np.testing.assert_array_equal(back.second_moment[name], weights.second_moment[name])


def test_transposed_arrays_keep_their_values() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    back = parse_weights(weights_bytes(Weights({"w": array}, {"w": array}, 0)))

    np.testing.assert_array_equal(back.parameters["w"], array)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"parameters.w": np.ones(2, np.float32)}, r"step: expected int64 of shape \(\), got none"),
        ({"step": np.array(1, np.int32)}, r"step: expected int64 of shape \(\), got int32"),
        (
            {"step": np.array([1], np.int64)},
            r"expected int64 of shape \(\), got int64 of shape \(1,\)",
        ),
        ({"step": np.array(1, np.int64)}, "parameters: expected at least one, got none"),
        ({"step": np.array(1, np.int64), "w": np.ones(2)}, "w: unknown tensor"),
        (
            {"step": np.array(1, np.int64), "parameters.w": np.ones(2, np.float32)},
            "second_moment.w: missing; parameters.w exists",
        ),
    ],
)
def test_refuses_tensors_that_do_not_fit(
    tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        parse_weights(safetensors.numpy.save(tensors))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("parameters", np.full((2, 3), np.nan, np.float32), "not finite"),
        ("parameters", np.ones((2, 3), np.float64), "got float64"),
        ("second_moment", np.ones((3, 2), np.float32), r"expected float32 of shape \(2, 3\)"),
        ("second_moment", np.full((2, 3), -1, np.float32), "below 0"),
    ],
)
def test_refuses_values_that_do_not_fit(
    weights: Weights,
    name: str,
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    message: str,
) -> None:
    changed = {"head.weight": array}
    unfit = (
        replace(weights, parameters=changed)
        if name == "parameters"
        else replace(weights, second_moment=changed)
    )

    with pytest.raises(BundleError, match=message):
        weights_bytes(unfit)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_refuses_bytes_that_are_no_safetensors_file(content: bytes) -> None:
    with pytest.raises(BundleError, match="not a safetensors file"):
        parse_weights(content)
