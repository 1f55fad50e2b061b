"""An error on the wire: `google.rpc.Status` in the trailers."""

from __future__ import annotations

from google.protobuf import any_pb2
from google.rpc import status_pb2

from kshot.server.error_details import error_info
from kshot.server.errors import RequestError, Unavailable

DETAILS_TRAILER = "grpc-status-details-bin"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
REQUEST_ID_TRAILER = "x-kshot-request-id"

_MAX_MESSAGE_BYTES = 600

Trailers = tuple[tuple[str, str | bytes], ...]


def message_of(error: RequestError) -> str:
    """Return the message of the status; the details hold the rest.

    It travels with three characters for each byte beyond ASCII, so its bytes are bounded.
    """
    text = str(error)
    whole = text.encode()
    if len(whole) <= _MAX_MESSAGE_BYTES:
        return text
    return whole[:_MAX_MESSAGE_BYTES].decode(errors="ignore") + "\N{HORIZONTAL ELLIPSIS}"


def trailers_of(error: RequestError, request_id: str) -> Trailers:
    """Return the trailers that carry an error."""
    number, _name = error.code.value
    status = status_pb2.Status(code=number, message=message_of(error))
    for detail in (error_info(error.reason, error.metadata), *error.details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers: Trailers = (
        (DETAILS_TRAILER, status.SerializeToString()),
        (REQUEST_ID_TRAILER, request_id),
    )
    if isinstance(error, Unavailable):
        trailers += ((PUSHBACK_TRAILER, str(int(error.retry_seconds * 1000))),)
    return trailers
