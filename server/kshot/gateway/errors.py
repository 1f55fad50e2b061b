"""Failures as HTTP answers: the status that Google's mapping names, and a JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from starlette.responses import JSONResponse, Response

REQUEST_ID = "x-kshot-request-id"
_DETAILS = "grpc-status-details-bin"
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
_OTHER_STATUS = 500
# Of failures that never reached the server, gRPC's words name sockets or say nothing.
_OWN_WORDS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "there was no answer in time; ask again, or give more "
    "seconds by ?timeout=",
    grpc.StatusCode.UNAVAILABLE: "the server cannot be reached now; try again",
}


class RequestError(Exception):
    """A request that no call is made of: its HTTP status, the name of a gRPC code, and why."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> Response:
        """Return the answer."""
        return JSONResponse(_document(self.status, self.code, str(self), ()), self.status)


def invalid(message: str) -> RequestError:
    """Return the error of a request that is not understood."""
    return RequestError(400, "INVALID_ARGUMENT", message)


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
    return JSONResponse(document, document["error"]["code"], headers)


def request_id(metadata: Any) -> str:  # noqa: ANN401 -- grpc.aio has several types for it
    """Return the name of a call in the server's log, empty if the server never heard of it."""
    return str(dict(metadata or ()).get(REQUEST_ID, ""))


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
