"""The initialization: parameters, and the second moment of gradients from training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from kshot.bundle.errors import BundleError
from kshot.bundle.manifest import TAIL_FILE, WEIGHTS_FILE

Arrays = Mapping[str, npt.NDArray[np.float32]]

_PARAMETERS = "parameters."
_SECOND_MOMENT = "second_moment."
_STEP = "step"


@dataclass(frozen=True)
class Weights:
    """Float32 parameters by name; `second_moment` (Adam's v) alike; `step` (Adam's t)."""

    parameters: Arrays
    second_moment: Arrays
    step: int


def weights_bytes(weights: Weights) -> bytes:
    """Return the content of `weights.safetensors`; raise `BundleError` for invalid weights."""
    _check(weights)
    tensors: dict[str, npt.NDArray[np.generic]] = {_STEP: np.array(weights.step, np.int64)}
    for prefix, arrays in (
        (_PARAMETERS, weights.parameters),
        (_SECOND_MOMENT, weights.second_moment),
    ):
        tensors |= {prefix + name: np.asarray(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(tensors)


def parse_weights(content: bytes) -> Weights:
    """Read the content of `weights.safetensors`; raise `BundleError` where it is invalid."""
    try:
        tensors = cast(dict[str, npt.NDArray[np.generic]], safetensors.numpy.load(content))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{WEIGHTS_FILE}: not a safetensors file") from error
    step = tensors.pop(_STEP, None)
    if step is None or step.dtype != np.int64 or step.shape != ():
        raise BundleError(f"{WEIGHTS_FILE}: {_STEP}: expected int64 of shape (), got {_form(step)}")
    parts: dict[str, dict[str, npt.NDArray[np.float32]]] = {_PARAMETERS: {}, _SECOND_MOMENT: {}}
    for key, array in tensors.items():
        prefix = next((prefix for prefix in parts if key.startswith(prefix)), None)
        if prefix is None:
            expected = f"{_STEP}, {_PARAMETERS}… or {_SECOND_MOMENT}…"
            raise BundleError(f"{WEIGHTS_FILE}: {key}: unknown tensor; expected {expected}")
        parts[prefix][key.removeprefix(prefix)] = cast(npt.NDArray[np.float32], array)
    weights = Weights(parts[_PARAMETERS], parts[_SECOND_MOMENT], int(cast(np.int64, step)))
    _check(weights)
    return weights


def tail_bytes(parameters: Arrays) -> bytes:
    """Return the content of `tail.safetensors`; raise `BundleError` for invalid parameters."""
    _check_tail(parameters)
    return safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in parameters.items()}
    )


def parse_tail(content: bytes) -> Arrays:
    """Read the content of `tail.safetensors`; raise `BundleError` where it is invalid."""
    try:
        parameters = cast(Arrays, safetensors.numpy.load(content))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{TAIL_FILE}: not a safetensors file") from error
    _check_tail(parameters)
    return parameters


def _check_tail(parameters: Arrays) -> None:
    for name, array in parameters.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise BundleError(f"{TAIL_FILE}: {name}: expected finite float32, got {_form(array)}")


def _check(weights: Weights) -> None:
    parameters, second_moment = weights.parameters, weights.second_moment
    if not parameters:
        raise BundleError(f"{WEIGHTS_FILE}: parameters: expected at least one, got none")
    for name in sorted(parameters.keys() ^ second_moment.keys()):
        there, missing = (
            (_PARAMETERS, _SECOND_MOMENT) if name in parameters else (_SECOND_MOMENT, _PARAMETERS)
        )
        raise BundleError(f"{WEIGHTS_FILE}: {missing}{name}: missing; {there}{name} exists")
    for name, array in parameters.items():
        moment = second_moment[name]
        for prefix, values in ((_PARAMETERS, array), (_SECOND_MOMENT, moment)):
            if values.dtype != np.float32 or values.shape != array.shape:
                problem = f"expected float32 of shape {array.shape}, got {_form(values)}"
                raise BundleError(f"{WEIGHTS_FILE}: {prefix}{name}: {problem}")
            if not np.isfinite(values).all():
                raise BundleError(f"{WEIGHTS_FILE}: {prefix}{name}: has values that are not finite")
        if moment.size and moment.min() < 0:
            raise BundleError(f"{WEIGHTS_FILE}: {_SECOND_MOMENT}{name}: has values below 0")
    if weights.step < 0:
        raise BundleError(f"{WEIGHTS_FILE}: {_STEP}: expected at least 0, got {weights.step}")


def _form(array: npt.NDArray[np.generic] | None) -> str:
    return "none" if array is None else f"{array.dtype} of shape {array.shape}"
