"""From a failed call to the package's own error."""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from kshot.client.errors import KshotError, Problem, Violation, error_class

_DETAILS_KEY = "grpc-status-details-bin"


def error_from(error: grpc.RpcError, address: str, timeout: float | None) -> KshotError:
    """Return the most specific error for a failed call to `address` that had `timeout` seconds."""
    problem = _problem(error)
    code, text = error.code(), error.details() or error.code().name
    if problem.reason:
        message = text
    elif code is grpc.StatusCode.UNAVAILABLE:
        message = f"cannot reach a kshot server at {address}: {text}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED and timeout is not None:
        message = f"no answer from {address} within {timeout:g} s"
    else:
        message = f"{address} answered {code.name}: {text}"
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
            message += "; send fewer or smaller images, or serve with --max-message-bytes"
    return error_class(code, problem.reason)(message, problem)


def _problem(error: grpc.RpcError) -> Problem:
    """Read the status details that came with a failed call; damaged ones count as absent."""
    reason, metadata, retry_after = "", {}, None
    violations: tuple[Violation, ...] = ()
    try:
        for detail in _status(error).details:
            info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                violations = tuple(
                    Violation(item.field, item.description) for item in bad.field_violations
                )
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    except DecodeError:
        return Problem(code=error.code())
    return Problem(error.code(), reason, metadata, violations, retry_after)


def _status(error: grpc.RpcError) -> Status:
    for item in error.trailing_metadata() or ():
        if item.key == _DETAILS_KEY and isinstance(item.value, bytes):
            return Status.FromString(item.value)
    return Status()
