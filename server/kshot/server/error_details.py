"""The `google.rpc` messages that errors carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2


@dataclass(frozen=True)
class FieldViolation:
    """An invalid field of a request: its path, what was expected and what it was."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


def bad_request(violations: Iterable[FieldViolation]) -> Message:
    """Return a BadRequest."""
    fields = [
        details_pb2.BadRequest.FieldViolation(field=item.field, description=item.description)
        for item in violations
    ]
    message: Message = details_pb2.BadRequest(field_violations=fields)
    return message


def resource(kind: str, name: str, description: str) -> Message:
    """Return a ResourceInfo; `kind` is a message of the wire."""
    message: Message = details_pb2.ResourceInfo(
        resource_type=f"kshot.v1.{kind}", resource_name=name, description=description
    )
    return message


def precondition(kind: str, subject: str, description: str) -> Message:
    """Return a PreconditionFailure with one violation."""
    violation = details_pb2.PreconditionFailure.Violation(
        type=kind, subject=subject, description=description
    )
    message: Message = details_pb2.PreconditionFailure(violations=[violation])
    return message


def quota_failure(subject: str, description: str) -> Message:
    """Return a QuotaFailure with one violation."""
    violation = details_pb2.QuotaFailure.Violation(subject=subject, description=description)
    message: Message = details_pb2.QuotaFailure(violations=[violation])
    return message


def retry_info(seconds: float) -> Message:
    """Return a RetryInfo."""
    message = details_pb2.RetryInfo()
    message.retry_delay.FromMilliseconds(int(seconds * 1000))
    retry: Message = message
    return retry


def request_info(request_id: str) -> Message:
    """Return a RequestInfo."""
    message: Message = details_pb2.RequestInfo(request_id=request_id)
    return message


def error_info(reason: str, metadata: dict[str, str]) -> Message:
    """Return the ErrorInfo of an error."""
    message: Message = details_pb2.ErrorInfo(reason=reason, domain="kshot", metadata=metadata)
    return message
