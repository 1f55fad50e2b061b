"""The client's errors: one class for each case that a caller can react to.

KshotError
├── InputError                  refused before anything was sent (also a ValueError)
├── InvalidArgumentError        the server refused values; `violations` lists every one
│   └── AdaptationDivergedError the inner loop's loss was not finite
├── NotFoundError
│   ├── ModelNotFoundError      no bundle is served under this name
│   └── AdaptedModelNotFoundError
│       ├── AdaptedModelExpiredError
│       └── AdaptedModelDeletedError
├── FailedPreconditionError     the state of the server does not allow the call
│   ├── ModelChangedError       the bundle that the adapted model was made from is gone
│   ├── NonFiniteLogitsError    the adapted model has no finite answer to these queries
│   ├── SupportNotKeptError     the adapted model has no support set any more
│   └── AdaptFirstError         the call names a model where it needs an adapted one
├── ConflictError
│   ├── EtagMismatchError       the adapted model was changed meanwhile
│   └── RequestIdReusedError    another request had this id
├── UnauthenticatedError        the call has no valid key
├── PermissionDeniedError       the key's role does not allow the call
├── ResourceExhaustedError      a message or a request exceeds a limit
│   ├── DeviceMemoryError       the task is too large for the server's device
│   ├── QuotaExceededError      a limit of the caller's tenant is reached
│   └── StoreFullError          delete adapted models, or wait until some expire
├── UnavailableError            not now: try again, after `retry_after` seconds where given
├── DeadlineExceededError       the timeout of the call is over
├── CancelledError
├── DataLossError               a stored adapted model is damaged; adapt again
├── UnimplementedError          the server does not know the call
└── ServerError                 the server failed; `reason` and its log say more
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True)
class Violation:
    """A refused field of a request, by its dotted name: what was expected and what it was.

    `subject` is what the caller gave there, if it is one of several: a file, else `image 5`.
    """

    field: str
    description: str
    subject: str = ""

    def __str__(self) -> str:
        name = self.subject or self.field
        return f"{name}: {self.description}" if name else self.description


@dataclass(frozen=True)
class Problem:
    """The details of a server's error; all empty for an error that the client found."""

    code: grpc.StatusCode | None = None
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after: float | None = None
    request_id: str = ""


class KshotError(Exception):
    """Base of all errors of this package.

    `code` is the gRPC status (None when nothing was sent), `reason` the server's UPPER_SNAKE name
    of the cause, `metadata` its details, `violations` all refused fields, `retry_after` seconds,
    `request_id` what the server's log names the call ("" where no server answered).
    """

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        problem = problem or Problem()
        self.code = problem.code
        self.reason = problem.reason
        self.metadata = problem.metadata
        self.violations = problem.violations
        self.retry_after = problem.retry_after
        self.request_id = problem.request_id


class InputError(KshotError, ValueError):
    """The input cannot be sent: no file, no image, labels that do not match the images."""


class InvalidArgumentError(KshotError):
    """The server refused one or more values; `violations` lists all of them."""


class AdaptationDivergedError(InvalidArgumentError):
    """The inner loop's loss was not finite: use a smaller learning rate."""


class NotFoundError(KshotError):
    """The call names something that does not exist."""


class ModelNotFoundError(NotFoundError):
    """No bundle is served under this name."""


class AdaptedModelNotFoundError(NotFoundError):
    """No adapted model has this id."""


class AdaptedModelExpiredError(AdaptedModelNotFoundError):
    """The adapted model has expired: adapt again."""


class AdaptedModelDeletedError(AdaptedModelNotFoundError):
    """The adapted model was deleted."""


class FailedPreconditionError(KshotError):
    """The server's state does not allow the call."""


class ModelChangedError(FailedPreconditionError):
    """The bundle that the adapted model was made from is no longer served: adapt again."""


class NonFiniteLogitsError(FailedPreconditionError):
    """The adapted model's logits for these queries are infinite or not numbers."""


class SupportNotKeptError(FailedPreconditionError):
    """The adapted model is kept without its support set: adapt again with `retain_support`."""


class AdaptFirstError(FailedPreconditionError):
    """The call names a model where it needs the id of an adapted one."""


class ConflictError(KshotError):
    """The call does not fit what others did meanwhile."""


class EtagMismatchError(ConflictError):
    """The adapted model was changed meanwhile: read it again and decide anew."""


class RequestIdReusedError(ConflictError):
    """Another request had the same `request_id`."""


class UnauthenticatedError(KshotError):
    """The call has no valid key: pass `api_key`, or set `KSHOT_API_KEY`."""


class PermissionDeniedError(KshotError):
    """The role of the key does not allow the call."""


class ResourceExhaustedError(KshotError):
    """A message or a request is larger than a limit."""


class DeviceMemoryError(ResourceExhaustedError):
    """The server's device has too little memory for this task: fewer examples or classes."""


class QuotaExceededError(ResourceExhaustedError):
    """A limit of the caller's tenant is reached; `metadata` has its `unit` and `limit`."""


class StoreFullError(ResourceExhaustedError):
    """The server's store is full: delete adapted models, or wait until some expire."""


class UnavailableError(KshotError):
    """The server cannot be reached or cannot take the call now.

    If the connection was lost during the call, the adaptation may have been kept nevertheless.
    """


class DeadlineExceededError(KshotError):
    """The timeout of the call is over."""


class CancelledError(KshotError):
    """The call was cancelled."""


class DataLossError(KshotError):
    """A stored adapted model is damaged: adapt again."""


class UnimplementedError(KshotError):
    """The server does not know the call."""


class ServerError(KshotError):
    """The server failed unexpectedly."""


BY_CODE: Mapping[grpc.StatusCode, type[KshotError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNKNOWN: ServerError,
}

BY_REASON: Mapping[str, type[KshotError]] = {
    "INVALID_REQUEST": InvalidArgumentError,
    "ADAPTATION_DIVERGED": AdaptationDivergedError,
    "MODEL_NOT_FOUND": ModelNotFoundError,
    "ADAPTED_MODEL_NOT_FOUND": AdaptedModelNotFoundError,
    "ADAPTED_MODEL_EXPIRED": AdaptedModelExpiredError,
    "ADAPTED_MODEL_DELETED": AdaptedModelDeletedError,
    "MODEL_CHANGED": ModelChangedError,
    "NON_FINITE_LOGITS": NonFiniteLogitsError,
    "SUPPORT_NOT_KEPT": SupportNotKeptError,
    "ADAPT_FIRST": AdaptFirstError,
    "ETAG_MISMATCH": EtagMismatchError,
    "REQUEST_ID_REUSED": RequestIdReusedError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "QUOTA_EXCEEDED": QuotaExceededError,
    "SERVICE_UNKNOWN": NotFoundError,
    "GPU_MEMORY": DeviceMemoryError,
    "STORE_FULL": StoreFullError,
    "UNAVAILABLE": UnavailableError,
    "QUEUE_FULL": UnavailableError,
    "TOO_MANY_CALLS": UnavailableError,
    "TOO_MANY_FILES": UnavailableError,
    "ENGINE_UNAVAILABLE": UnavailableError,
    "STORE_UNAVAILABLE": UnavailableError,
    "SHUTTING_DOWN": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "CANCELLED": CancelledError,
    "ADAPTED_MODEL_DAMAGED": DataLossError,
    "METHOD_NOT_FOUND": UnimplementedError,
    "INTERNAL": ServerError,
}


def error_class(code: grpc.StatusCode, reason: str) -> type[KshotError]:
    """Return the class for a reason, else for a status, else the base."""
    return BY_REASON.get(reason) or BY_CODE.get(code, KshotError)
