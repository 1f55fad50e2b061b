"""The errors of the front: those that prevent its start, and those that callers receive.

KshotServerError
├── StartError                  the server cannot start
│   └── ConfigError             a setting is invalid
└── RequestError                sent to one caller: a status code, a reason, details
    ├── InvalidRequest          fields of the request are invalid; all of them are listed
    ├── AdaptationDiverged      the loss or the parameters are not finite
    ├── ModelNotFound           no bundle is served under this name
    ├── AdaptedModelNotFound    no such id, or it is no longer known
    │   ├── AdaptedModelExpired
    │   └── AdaptedModelDeleted
    ├── ModelChanged            the adapted bundle is no longer served
    │   └── ImportNotServed     that of an imported file is not served
    ├── NonFiniteLogits         the logits of a query are not finite
    ├── SupportNotKept          the adapted model has no support set any more
    ├── AdaptFirst              the call names a model where it needs an adapted one
    ├── EtagMismatch            the adapted model was changed meanwhile
    ├── RequestIdReused         another request had this id
    ├── Unauthenticated         the call has no valid key
    ├── PermissionDenied        the key's role does not allow the call
    ├── QuotaExceeded           a limit of the tenant is reached
    ├── StoreIsFull             a limit of the store is reached, or its disk is full
    ├── DeviceMemoryFull        the device has too little memory for this task
    ├── Unavailable             the call may work after `retry_seconds`
    │   ├── QueueFull
    │   ├── TooManyCalls
    │   ├── TooManyFiles
    │   ├── EngineUnavailable
    │   ├── StoreUnavailable
    │   └── ShuttingDown
    ├── DeadlineExceeded        the caller's time is over
    ├── CallCancelled           the caller has gone
    ├── AdaptedModelDamaged     the stored file is missing or was changed
    ├── MethodNotFound          no such RPC
    ├── ServiceUnknown          no such service, in a health check
    └── InternalError           any other failure; the caller gets an id, the log the cause

The store adds failures that no caller receives (`store/failures.py`).
"""
# ruff: noqa: N818 -- the names state conditions, as in the tree above

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar

import grpc
from google.protobuf.message import Message

from kshot.bundle import known_names, shipped_names
from kshot.server.error_details import (
    FieldViolation,
    bad_request,
    precondition,
    quota_failure,
    request_info,
    resource,
    retry_info,
)

# A path of fields and indices; names of a caller's own stand in brackets.
_OWN_NAMES = re.compile(r"(?:[a-z][a-z0-9_]*(?:\[\d+\])?\.?){1,8}")


class KshotServerError(Exception):
    """Base of all errors of the front."""


class StartError(KshotServerError):
    """The server cannot start; the message is for its operator."""


class ConfigError(StartError):
    """A setting is invalid; the message names its key and its value."""


class RequestError(KshotServerError):
    """Base of the errors that a caller receives.

    `metadata` holds the values of the message for programs, `details` the `google.rpc` messages
    beside the ErrorInfo. A class without a message of its own has a `sentence`.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    sentence: ClassVar[str] = ""

    def __init__(self, message: str = "", *details: Message, **metadata: str) -> None:
        super().__init__(message or self.sentence)
        self.details = details
        self.metadata = metadata

    @property
    def field(self) -> str:
        """Return the first field that is invalid, without names that the caller chose."""
        return ""


class InvalidRequest(RequestError):
    """Fields of the request are invalid: a BadRequest lists all of them."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        count = len(self.violations)
        start = "" if count == 1 else f"{count} fields are invalid: "
        message = start + "; ".join(map(str, self.violations))
        super().__init__(message, bad_request(self.violations))

    @property
    def field(self) -> str:
        """Return the first field that is invalid, without names that the caller chose."""
        found = _OWN_NAMES.match(self.violations[0].field)
        return found[0].rstrip(".") if found else ""

    @classmethod
    def about(cls, field: str, description: str) -> InvalidRequest:
        """Return the error of a single violation."""
        return cls([FieldViolation(field, description)])


class AdaptationDiverged(RequestError):
    """The loss or the parameters are not finite."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "ADAPTATION_DIVERGED"

    def __init__(self, step_count: int, learning_rate: float) -> None:
        rate = f"{learning_rate:g}"
        message = (
            f"the adaptation diverged after {step_count} steps at learning rate {rate}; "
            "try a smaller learning rate"
        )
        refused = bad_request([FieldViolation("options.learning_rate", message)])
        super().__init__(message, refused, step_count=str(step_count), learning_rate=rate)


class ModelNotFound(RequestError):
    """No bundle is served under this name, or not to this caller: such a one is `barred`."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str, served: Sequence[str], *, barred: bool = False) -> None:
        model = model[:64]
        expected = f"one of {', '.join(served)}" if served else "none: this caller may use no model"
        message = f"model {model!r} is not served; expected {expected}"
        if not model:
            message = f"no model is named; expected {expected}"
            if not served:
                message = "this caller may use no model"
        name, at, _version = model.partition("@")
        if at and name in served:
            message += "; leave out the version"
        elif barred:
            pass  # serving it would not help
        elif name in known_names():
            message += f"; serve it with `--bundle {model}`"
        elif model in shipped_names():
            message += (
                f"; `kshot bundle build {model}` builds it, then `--bundle {model}` serves it"
            )
        super().__init__(message, resource("Model", model, message), model=model)


class AdaptedModelNotFound(RequestError):
    """No adapted model has this id, which the `template` of the message takes."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "ADAPTED_MODEL_NOT_FOUND"
    template: ClassVar[str] = "there is no adapted model {}"

    def __init__(self, adapted_model: str, **metadata: str) -> None:
        message = self.template.format(adapted_model)
        info = resource("AdaptedModel", adapted_model, message)
        super().__init__(message, info, adapted_model=adapted_model, **metadata)


class AdaptedModelExpired(AdaptedModelNotFound):
    """The adapted model has expired; `expire_time` in Unix seconds."""

    reason = "ADAPTED_MODEL_EXPIRED"
    template = "the adapted model {} has expired; adapt again"

    def __init__(self, adapted_model: str, expire_time: float) -> None:
        expired = datetime.fromtimestamp(expire_time, UTC).isoformat()
        super().__init__(adapted_model, expire_time=expired)


class AdaptedModelDeleted(AdaptedModelNotFound):
    """The adapted model was deleted."""

    reason = "ADAPTED_MODEL_DELETED"
    template = "the adapted model {} was deleted; adapt again"


class ModelChanged(RequestError):
    """The adapted bundle is no longer served; `instead` is the version that is, if there is one."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "MODEL_CHANGED"

    def __init__(
        self, adapted_model: str, model: str, instead: str = "", problem: str = ""
    ) -> None:
        remedy = f"adapt again, to {instead}" if instead else f"serve it again (--bundle {model})"
        why = f"; it cannot be adapted again by itself: {problem}" if problem else ""
        message = (
            f"the adapted model {adapted_model} was made from a bundle of model {model!r} that is "
            f"no longer served; {remedy}{why}"
        )
        failure = precondition(self.reason, model, message)
        served = {"served": instead} if instead else {}
        super().__init__(message, failure, adapted_model=adapted_model, model=model, **served)


class ImportNotServed(ModelChanged):
    """The bundle that an imported file was made from is not served."""

    def __init__(self, model: str, bundle_digest: str) -> None:
        message = (
            f"the file was made from a bundle of model {model!r} that is not served, with digest "
            f"{bundle_digest!r}; serve that version of it"
        )
        failure = precondition(self.reason, model, message)
        RequestError.__init__(self, message, failure, model=model, bundle_digest=bundle_digest)


class NonFiniteLogits(RequestError):
    """The logits of some queries are not finite; `query` is the index of the first."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NON_FINITE_LOGITS"

    def __init__(self, query: int) -> None:
        message = f"the logits of query {query} are not finite; its values are too large"
        super().__init__(message, precondition(self.reason, "queries", message), query=str(query))


class SupportNotKept(RequestError):
    """The adapted model is kept without its support set; `what` cannot be done."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "SUPPORT_NOT_KEPT"

    def __init__(self, adapted_model: str, what: str) -> None:
        message = (
            f"the adapted model {adapted_model} is kept without its support set, so {what}; adapt "
            "again with retain_support"
        )
        failure = precondition(self.reason, adapted_model, message)
        super().__init__(message, failure, adapted_model=adapted_model)


class AdaptFirst(RequestError):
    """The call names a model where it needs an adapted one."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "ADAPT_FIRST"

    def __init__(self, model: str) -> None:
        message = (
            f"model {model!r} answers no queries by itself; adapt it first "
            "(kshot.v1.AdaptationService/Adapt) and name the adapted model's id"
        )
        super().__init__(message, precondition(self.reason, model, message), model=model)


class EtagMismatch(RequestError):
    """The adapted model has another etag than the call asks for."""

    code = grpc.StatusCode.ABORTED
    reason = "ETAG_MISMATCH"

    def __init__(self, adapted_model: str, etag: str) -> None:
        message = (
            f"the adapted model {adapted_model} was changed meanwhile: its etag is {etag}; read it "
            "again and decide anew"
        )
        info = resource("AdaptedModel", adapted_model, message)
        super().__init__(message, info, adapted_model=adapted_model, etag=etag)


class RequestIdReused(RequestError):
    """Another request had the same id."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"
    sentence = "another request had this request_id; expected a new random UUID for each request"


class Unauthenticated(RequestError):
    """The call has no valid key."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"
    sentence = "expected a valid key in the metadata `authorization: Bearer KEY`"


class PermissionDenied(RequestError):
    """The role of the key does not allow the call."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class QuotaExceeded(RequestError):
    """A limit of the tenant is reached, in `models`, `bytes` or `adapt seconds`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"

    def __init__(self, unit: str, limit: float, remedy: str) -> None:
        message = f"the tenant's limit of {limit:.16g} {unit} is reached; {remedy}"
        failure = quota_failure(unit, message)
        super().__init__(message, failure, unit=unit, limit=f"{limit:.16g}")


class StoreIsFull(RequestError):
    """A limit of the store is reached, in `models` or `bytes`, or its `disk` is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "STORE_FULL"

    def __init__(self, unit: str, limit: int | None = None) -> None:
        why = "its disk has no room" if limit is None else f"its limit is {limit} {unit}"
        message = f"the store is full: {why}; delete adapted models or let them expire"
        metadata = {"unit": unit} if limit is None else {"unit": unit, "limit": str(limit)}
        super().__init__(message, quota_failure(f"adapted models, {unit}", message), **metadata)


class DeviceMemoryFull(RequestError):
    """The device has too little memory for this task, even alone."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "GPU_MEMORY"

    def __init__(self) -> None:
        message = "the device has too little memory for this task; try fewer examples or classes"
        super().__init__(message, quota_failure("device memory", message))


class Unavailable(RequestError):
    """The same call may work after `retry_seconds`."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"
    sentence = "the server cannot answer now; try again"
    retry_seconds: ClassVar[float] = 1.0

    def __init__(self) -> None:
        super().__init__("", retry_info(self.retry_seconds))


class QueueFull(Unavailable):
    """The maximum number of calls is waiting."""

    reason = "QUEUE_FULL"
    sentence = "too many calls are waiting; try again"
    retry_seconds = 0.5


class TooManyCalls(Unavailable):
    """The caller's connection or tenant has the maximum number of calls under way."""

    reason = "TOO_MANY_CALLS"
    sentence = "this connection or tenant has too many calls under way; wait until some have ended"
    retry_seconds = 0.5


class TooManyFiles(Unavailable):
    """The process or the system has no descriptor left for another file."""

    reason = "TOO_MANY_FILES"
    sentence = "the server has too many connections and files open; try again"


class EngineUnavailable(Unavailable):
    """The engine is starting, or ended during this call."""

    reason = "ENGINE_UNAVAILABLE"
    sentence = "the engine that adapts is not available now; try again"


class StoreUnavailable(Unavailable):
    """The system refused to read or write the store; the log says why."""

    reason = "STORE_UNAVAILABLE"
    sentence = "the store of adapted models cannot be read or written now; try again"


class ShuttingDown(Unavailable):
    """The server finishes running calls and accepts no new ones."""

    reason = "SHUTTING_DOWN"
    sentence = "the server is shutting down; try again elsewhere or later"


class DeadlineExceeded(RequestError):
    """The caller's deadline came before the answer."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    sentence = "the deadline came before the answer"


class CallCancelled(RequestError):
    """The caller has left; only the log tells of this error."""

    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"
    sentence = "the call was cancelled"


class AdaptedModelDamaged(RequestError):
    """The stored file is missing or was changed."""

    code = grpc.StatusCode.DATA_LOSS
    reason = "ADAPTED_MODEL_DAMAGED"

    def __init__(self, adapted_model: str) -> None:
        message = f"the adapted model {adapted_model} is damaged in the store; adapt again"
        info = resource("AdaptedModel", adapted_model, message)
        super().__init__(message, info, adapted_model=adapted_model)


class MethodNotFound(RequestError):
    """The service has no such RPC."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "METHOD_NOT_FOUND"
    sentence = "there is no such method"


class ServiceUnknown(RequestError):
    """A health check names a service that this server does not have."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "SERVICE_UNKNOWN"
    sentence = "the server has no such service; expected one that reflection lists, or none"


class InternalError(RequestError):
    """Any other failure; the log line of the request id has the traceback."""

    def __init__(self, request_id: str) -> None:
        message = f"the server failed; its log names request {request_id}"
        super().__init__(message, request_info(request_id), request_id=request_id)
