"""The client of a kshot server."""

from __future__ import annotations

from kshot.client.adapted_model import AdaptedModel
from kshot.client.capabilities import Capabilities, ModelCapabilities
from kshot.client.client import Client
from kshot.client.errors import (
    AdaptationDivergedError,
    AdaptedModelDeletedError,
    AdaptedModelExpiredError,
    AdaptedModelNotFoundError,
    CancelledError,
    DataLossError,
    DeadlineExceededError,
    DeviceMemoryError,
    FailedPreconditionError,
    InputError,
    InvalidArgumentError,
    KshotError,
    ModelChangedError,
    ModelNotFoundError,
    NonFiniteLogitsError,
    NotFoundError,
    ResourceExhaustedError,
    ServerError,
    StoreFullError,
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

__all__ = [
    "AccuracyEstimate",
    "AdaptOptions",
    "AdaptationDivergedError",
    "AdaptedModel",
    "AdaptedModelDeletedError",
    "AdaptedModelExpiredError",
    "AdaptedModelNotFoundError",
    "CancelledError",
    "Capabilities",
    "Client",
    "DataLossError",
    "DeadlineExceededError",
    "Description",
    "DeviceMemoryError",
    "ExampleNote",
    "FailedPreconditionError",
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
    "Prediction",
    "Report",
    "ResolvedOptions",
    "ResourceExhaustedError",
    "ServerError",
    "StoreFullError",
    "TailReport",
    "Timing",
    "UnavailableError",
    "UnimplementedError",
    "Violation",
]
