"""What a request of the Open Inference Protocol asks for, beside its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from kshot.bundle import BatchNormMode
from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.error_details import FieldViolation
from kshot.server.errors import InvalidRequest
from kshot.server.oip.contents import FEW
from kshot.server.request.images import QUERIES
from kshot.server.request.inputs import PredictInput
from kshot.server.request.violations import Violations, shorten

PROBABILITIES, LABELS, LOGITS, EMBEDDING = "probabilities", "labels", "logits", "embedding"

_MAX_ID_BYTES = 256
# Fields as the front names them: as this protocol does. The first that fits counts.
_FIELDS = {
    f"{QUERIES}.tensor.datatype": "inputs[0].datatype",
    f"{QUERIES}.tensor.shape": "inputs[0].shape",
    f"{QUERIES}.tensor.data": "raw_input_contents[0]",
    f"{QUERIES}.tensor": "inputs[0]",
    f"{QUERIES}.encoded.items": "inputs[0].contents",
    f"{QUERIES}.encoded": "inputs[0]",
    QUERIES: "inputs[0]",
    "adapted_model": "model_name",
    "batch_norm_mode": "parameters[batch_norm_mode]",
    "reject_below": "parameters[reject_below]",
}


Value = str | int | float | bool | None

# Parameter: the values that it may have, and the same in words.
_ALLOWED: dict[str, tuple[Callable[[Value], bool], str]] = {
    "batch_norm_mode": (
        lambda value: value in tuple(BatchNormMode),
        f"a string, one of {', '.join(BatchNormMode)}",
    ),
    "top_k": (lambda value: type(value) is int and value >= 0, "an integer of 0 or more"),
    "reject_below": (
        lambda value: isinstance(value, int | float) and 0 <= value <= 1,
        "a number from 0 to 1",
    ),
}
PARAMETERS = tuple(_ALLOWED)


def read_parameters(
    request: wire.ModelInferRequest, known: Sequence[str], violations: Violations
) -> dict[str, Value]:
    """Return the parameters of a request that are valid."""
    given: dict[str, Value] = {}
    for name in sorted(islice(request.parameters, FEW)):
        field = f"parameters[{shorten(name, 40)}]"
        if name not in known:
            expected = f"expected one of {', '.join(known)}" if known else "expected no parameters"
            violations.add(field, expected)
            continue
        choice = request.parameters[name].WhichOneof("parameter_choice")
        value = None if choice is None else getattr(request.parameters[name], choice)
        admits, expected = _ALLOWED[name]
        if admits(value):
            given[name] = value
        else:
            violations.add(field, f"expected {expected}, got {shorten(repr(value), 40)}")
    if (count := len(request.parameters)) > FEW:
        violations.add("parameters", f"expected at most {len(known)}, got {count}")
    return given


def predict_input(
    request: wire.ModelInferRequest, outputs: Sequence[str], violations: Violations
) -> PredictInput:
    """Read a request to an adapted model for some outputs; its images are read apart."""
    given: dict[str, Any] = read_parameters(request, PARAMETERS, violations)
    mode = given.get("batch_norm_mode")
    return PredictInput(
        None,
        None if mode is None else BatchNormMode(mode),
        given.get("top_k", 0),
        LOGITS in outputs,
        given.get("reject_below"),
        LABELS not in outputs,
    )


def check_request_id(request: wire.ModelInferRequest, violations: Violations) -> None:
    """Note an id that is too long to be repeated."""
    if (size := len(request.id.encode())) > _MAX_ID_BYTES:
        violations.add("id", f"expected at most {_MAX_ID_BYTES} bytes, got {size}")


def read_outputs(
    request: wire.ModelInferRequest,
    default: Sequence[str],
    optional: Sequence[str],
    violations: Violations,
) -> tuple[str, ...]:
    """Return the names of the outputs to send, in their order."""
    known = (*default, *optional)
    names = [output.name for output in request.outputs[:FEW]]
    for index, name in enumerate(names):
        field = f"outputs[{index}]"
        if name not in known:
            got = shorten(name, 40)
            violations.add(f"{field}.name", f"expected one of {', '.join(known)}, got {got!r}")
        elif name in names[:index]:
            violations.add(f"{field}.name", f"expected each output once, got {name!r} twice")
        for parameter in sorted(islice(request.outputs[index].parameters, FEW)):
            violations.add(
                f"{field}.parameters[{shorten(parameter, 40)}]", "expected no such parameter"
            )
    if (count := len(request.outputs)) > FEW:
        violations.add("outputs", f"expected at most {len(known)}, got {count}")
    return tuple(names) or tuple(default)


@contextmanager
def in_these_words() -> Iterator[None]:
    """Name the fields in violations that the block raises as this protocol does."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(
            [FieldViolation(_renamed(each.field), each.description) for each in error.violations]
        ) from error


def _renamed(field: str) -> str:
    for name, other in _FIELDS.items():
        if field == name or field.startswith((f"{name}[", f"{name}.")):
            return other + field.removeprefix(name)
    return field
