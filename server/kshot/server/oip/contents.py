"""Images from tensors of the Open Inference Protocol, whose contents are raw or typed."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np

from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.request.inputs import EncodedImages, Images, TensorImages
from kshot.server.request.violations import Violations, shorten

INPUT = "images"
# Datatype: the field with its elements, where they are not raw.
FIELDS = {"UINT8": "uint_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}

_MAX_AXES = 4
_LENGTH_BYTES = 4
# More parts of a kind than any request needs: only these are looked at.
FEW = 16

Tensor = wire.ModelInferRequest.InferInputTensor


def read_images(
    request: wire.ModelInferRequest, max_count: int, violations: Violations
) -> Images | None:
    """Return the images of a request, None if violations were noted."""
    before = len(violations)
    raw, count = request.raw_input_contents, len(request.inputs)
    if count != 1:
        violations.add("inputs", f"expected 1 input, {INPUT!r}, got {count}")
    if raw and len(raw) != count:
        violations.add(
            "raw_input_contents",
            f"expected one for each of {count} inputs, or none, got {len(raw)}",
        )
    for index, tensor in enumerate(request.inputs[:FEW]):
        field = f"inputs[{index}]"
        _check_input(tensor, field, max_count, violations)
        _check_contents(tensor, field, bool(raw), violations)
    if len(violations) > before:
        return None
    (tensor,) = request.inputs
    if raw:
        return _of_raw(tensor, raw[0], violations)
    return _of_typed(tensor, violations)


def _check_input(tensor: Tensor, field: str, max_count: int, violations: Violations) -> None:
    """Check what describes an input."""
    if tensor.name != INPUT:
        violations.add(f"{field}.name", f"expected {INPUT!r}, got {shorten(tensor.name, 40)!r}")
    if tensor.datatype not in FIELDS:
        got = shorten(tensor.datatype, 20)
        violations.add(f"{field}.datatype", f"expected one of {', '.join(FIELDS)}, got {got!r}")
    if not _shape_fits(tensor):
        expected = "(n)" if tensor.datatype == "BYTES" else f"2 to {_MAX_AXES} axes of 1 or more"
        got = ", ".join(map(str, tensor.shape[: _MAX_AXES + 1]))
        violations.add(f"{field}.shape", f"expected {expected}, got ({got})")
    elif tensor.shape[0] > max_count:
        expected = f"expected 1 to {max_count} images"
        violations.add(f"{field}.shape", f"{expected}, got {tensor.shape[0]}")
    for name in sorted(islice(tensor.parameters, FEW)):
        violations.add(f"{field}.parameters[{shorten(name, 40)}]", "expected no such parameter")


def _shape_fits(tensor: Tensor) -> bool:
    axes = {1} if tensor.datatype == "BYTES" else range(2, _MAX_AXES + 1)
    return len(tensor.shape) in axes and min(tensor.shape) > 0


def _check_contents(tensor: Tensor, field: str, raw: bool, violations: Violations) -> None:
    """Check which contents an input has, and how many elements."""
    filled = {field.name for field, _ in tensor.contents.ListFields()}
    if raw:
        if filled:
            violations.add(f"{field}.contents", "must not be set beside raw_input_contents")
        return
    wanted = FIELDS.get(tensor.datatype)
    if wanted is None:
        return
    for name in sorted(filled - {wanted}):
        violations.add(
            f"{field}.contents.{name}", f"expected {wanted} for datatype {tensor.datatype}"
        )
    if _shape_fits(tensor):
        count, got = math.prod(tensor.shape), len(getattr(tensor.contents, wanted))
        if got != count:
            violations.add(
                f"{field}.contents.{wanted}",
                f"expected {count} elements for shape {tuple(tensor.shape)}, got {got}",
            )


def _of_raw(tensor: Tensor, content: bytes, violations: Violations) -> Images | None:
    if tensor.datatype != "BYTES":
        return TensorImages(tensor.datatype, tuple(tensor.shape), content)
    items, at = list[bytes](), 0
    (count,) = tensor.shape
    while len(items) < count and at + _LENGTH_BYTES <= len(content):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(content[at:start], "little")
        items.append(content[start:at])
    if len(items) == count and at == len(content):
        return EncodedImages(tuple(items))
    violations.add(
        "raw_input_contents[0]",
        f"expected {count} elements, each behind its length in {_LENGTH_BYTES} bytes, got "
        f"{len(content)} bytes that are something else",
    )
    return None


def _of_typed(tensor: Tensor, violations: Violations) -> Images | None:
    """Take typed elements, whose number was checked."""
    contents, shape = tensor.contents, tuple(tensor.shape)
    if tensor.datatype == "BYTES":
        return EncodedImages(tuple(contents.bytes_contents))
    if tensor.datatype == "FP32":
        return TensorImages("FP32", shape, np.array(contents.fp32_contents, "<f4").tobytes())
    levels = np.array(contents.uint_contents, np.uint32)
    above = np.flatnonzero(levels > 255)
    if len(above):
        place = f"inputs[0].contents.uint_contents[{above[0]}]"
        violations.add(place, f"expected 0 to 255, got {levels[above[0]]}")
        return None
    return TensorImages("UINT8", shape, levels.astype(np.uint8).tobytes())
