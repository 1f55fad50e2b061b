"""The client of a kshot server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kshot.client.adapt_run import AdaptProgress, AdaptRun
from kshot.client.adapted_model import AdaptedModel
from kshot.client.capabilities import Capabilities, ModelCapabilities
from kshot.client.client import Client
from kshot.client.errors import (
    AdaptationDivergedError,
    AdaptedModelDeletedError,
    AdaptedModelExpiredError,
    AdaptedModelNotFoundError,
    AdaptFirstError,
    CancelledError,
    ConflictError,
    DataLossError,
    DeadlineExceededError,
    DeviceMemoryError,
    EtagMismatchError,
    FailedPreconditionError,
    InputError,
    InvalidArgumentError,
    KshotError,
    ModelChangedError,
    ModelNotFoundError,
    NonFiniteLogitsError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RequestIdReusedError,
    ResourceExhaustedError,
    ServerError,
    StoreFullError,
    SupportNotKeptError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    Violation,
)
from kshot.client.inputs import Images
from kshot.client.labels import Label
from kshot.client.options import AdaptOptions, ResolvedOptions
from kshot.client.results import (
    AccuracyEstimate,
    Description,
    ExampleNote,
    ModelCandidate,
    Prediction,
    Report,
    TailReport,
    Timing,
)

if TYPE_CHECKING:
    from kshot.client.classifier import FewShotClassifier

__all__ = [
    "AccuracyEstimate",
    "AdaptFirstError",
    "AdaptOptions",
    "AdaptProgress",
    "AdaptRun",
    "AdaptationDivergedError",
    "AdaptedModel",
    "AdaptedModelDeletedError",
    "AdaptedModelExpiredError",
    "AdaptedModelNotFoundError",
    "CancelledError",
    "Capabilities",
    "Client",
    "ConflictError",
    "DataLossError",
    "DeadlineExceededError",
    "Description",
    "DeviceMemoryError",
    "EtagMismatchError",
    "ExampleNote",
    "FailedPreconditionError",
    "FewShotClassifier",
    "Images",
    "InputError",
    "InvalidArgumentError",
    "KshotError",
    "Label",
    "ModelCandidate",
    "ModelCapabilities",
    "ModelChangedError",
    "ModelNotFoundError",
    "NonFiniteLogitsError",
    "NotFoundError",
    "PermissionDeniedError",
    "Prediction",
    "QuotaExceededError",
    "Report",
    "RequestIdReusedError",
    "ResolvedOptions",
    "ResourceExhaustedError",
    "ServerError",
    "StoreFullError",
    "SupportNotKeptError",
    "TailReport",
    "Timing",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Violation",
]


def __getattr__(name: str) -> object:
    """Import the classifier when it is asked for: it brings scikit-learn if that is installed."""
    if name == "FewShotClassifier":
        from kshot.client.classifier import FewShotClassifier

        return FewShotClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
