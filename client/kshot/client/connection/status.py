"""From a failed call to the package's own error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from kshot.client.connection.credentials import Credentials
from kshot.client.connection.failures import Place, key_words, plain_words
from kshot.client.errors import KshotError, Problem, Violation, error_class

_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "x-kshot-request-id"
_INDEXED = re.compile(r"(?P<field>[\w.]+)\[(?P<index>\d+)\]")


@dataclass(frozen=True)
class Asked:
    """What was asked: of which address, with how many seconds and which credentials.

    `names` gives the caller's own name for an index of a repeated field, such as the path of a file
    for `queries.encoded.items`.
    """

    address: str
    timeout: float | None = None
    names: Mapping[str, Callable[[int], str]] = field(default_factory=dict)
    credentials: Credentials = field(default_factory=Credentials)


def error_from(error: grpc.RpcError, asked: Asked) -> KshotError:
    """Return the most specific error for a failed call."""
    problem = _problem(error, asked)
    code, text = error.code(), error.details() or error.code().name
    if problem.reason:
        for violation in problem.violations:
            if violation.subject:
                text = text.replace(violation.field, violation.subject)
    else:
        text = plain_words(code, text, Place(asked.address, asked.credentials), asked.timeout)
    text += key_words(code, asked.credentials)
    return error_class(code, problem.reason)(text, problem)


def _problem(error: grpc.RpcError, asked: Asked) -> Problem:
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
                    _named(Violation(item.field, item.description), asked)
                    for item in bad.field_violations
                )
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    except DecodeError:
        return Problem(code=error.code(), request_id=_request_id(error))
    return Problem(error.code(), reason, metadata, violations, retry_after, _request_id(error))


def _request_id(error: grpc.RpcError) -> str:
    return next((str(value) for key, value in _trailers(error) if key == _REQUEST_ID_KEY), "")


def _named(violation: Violation, asked: Asked) -> Violation:
    match = _INDEXED.fullmatch(violation.field)
    name = asked.names.get(match["field"]) if match else None
    return replace(violation, subject=name(int(match["index"]))) if name and match else violation


def _status(error: grpc.RpcError) -> Status:
    for key, value in _trailers(error):
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return Status.FromString(value)
    return Status()


def _trailers(error: grpc.RpcError) -> Iterable[tuple[str, str | bytes]]:
    """Return the metadata behind an answer; those of `grpc.aio` are plain pairs."""
    return cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
