"""Failures as HTTP answers: the status that Google's mapping names, and a JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from starlette.responses import JSONResponse, Response

REQUEST_ID = "x-kshot-request-id"
_DETAILS = "grpc-status-details-bin"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_STATUSES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_OTHER_STATUS, _UNAVAILABLE = 500, 503
REASONS = {
    "INVALID_REQUEST": (400, "INVALID_ARGUMENT"),
    "MALFORMED_HTTP": (400, "INVALID_ARGUMENT"),
    "FOREIGN_PAGE": (403, "PERMISSION_DENIED"),
    "NO_SUCH_PATH": (404, "UNIMPLEMENTED"),
    "METHOD_NOT_ALLOWED": (405, "UNIMPLEMENTED"),
    "BODY_TOO_SLOW": (408, "DEADLINE_EXCEEDED"),
    "BODY_TOO_LARGE": (413, "RESOURCE_EXHAUSTED"),
    "CONTENT_TYPE": (415, "INVALID_ARGUMENT"),
    "UNKNOWN_HOST": (421, "PERMISSION_DENIED"),
    "INTERNAL": (500, "INTERNAL"),
    "TOO_MANY_BODIES": (_UNAVAILABLE, "UNAVAILABLE"),
    "TOO_MANY_CONNECTIONS": (_UNAVAILABLE, "UNAVAILABLE"),
}
"""Why requests are refused here, with HTTP status and gRPC code; metrics count by them."""
# Of failures that never reached the server, gRPC's words name sockets or say nothing.
_OWN_WORDS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "there was no answer in time; ask again, or give more "
    "seconds by ?timeout=",
    grpc.StatusCode.UNAVAILABLE: "the server cannot be reached now; try again",
}


class RequestError(Exception):
    """A request that no call is made of; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status, self.code = REASONS[reason]
        self._headers = dict(headers or {})

    def response(self) -> Response:
        """Return the answer."""
        info = {"@type": _ERROR_INFO, "reason": self.reason, "domain": "kshot"}
        document = _document(self.status, self.code, str(self), (info,))
        return JSONResponse(document, self.status, _retried(self.status, self._headers))


def invalid(message: str) -> RequestError:
    """Return the error of a request that is not understood."""
    return RequestError("INVALID_REQUEST", message)


def document_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return what a body says of a failed call."""
    status = _STATUSES.get(error.code(), _OTHER_STATUS)
    words = error.details() or ""
    if not request_id(error.trailing_metadata()):
        words = _OWN_WORDS.get(error.code(), words)
    return _document(status, error.code().name, words, _details(error))


def response_of(error: grpc.aio.AioRpcError) -> Response:
    """Return the answer to a failed call."""
    document = document_of(error)
    headers = {REQUEST_ID: request_id(error.trailing_metadata())}
    for detail in document["error"]["details"]:
        if detail["@type"].endswith("RetryInfo"):
            seconds = float(detail.get("retryDelay", "0s").removesuffix("s"))
            headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    status = document["error"]["code"]
    return JSONResponse(document, status, _retried(status, headers))


def request_id(metadata: Any) -> str:  # noqa: ANN401 -- grpc.aio has several types for it
    """Return the name of a call in the server's log, empty if the server never heard of it."""
    return str(dict(metadata or ()).get(REQUEST_ID, ""))


def _retried(status: int, headers: dict[str, str]) -> dict[str, str]:
    """Return headers that say when to try again where that may help."""
    return {"Retry-After": "1", **headers} if status == _UNAVAILABLE else headers


def _details(error: grpc.aio.AioRpcError) -> Sequence[dict[str, Any]]:
    content = dict(error.trailing_metadata() or ()).get(_DETAILS)
    if not isinstance(content, bytes):
        return ()
    found = []
    for packed in status_pb2.Status.FromString(content).details:
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        detail = kind.FromString(packed.value)
        found.append({"@type": packed.type_url, **json_format.MessageToDict(detail)})
    return found


def _document(
    status: int, code: str, message: str, details: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    error = {"code": status, "status": code, "message": message, "details": list(details)}
    return {"error": error}
