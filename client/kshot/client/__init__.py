"""The client of a kshot server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kshot.client.lazy import importer as _importer

if TYPE_CHECKING:
    from kshot.client.adapt_run import AdaptProgress, AdaptRun
    from kshot.client.adapted_model import AdaptedModel
    from kshot.client.aio.adapt_run import AsyncAdaptRun
    from kshot.client.aio.adapted_model import AsyncAdaptedModel
    from kshot.client.aio.client import AsyncClient
    from kshot.client.capabilities import Capabilities, ModelCapabilities
    from kshot.client.classifier import FewShotClassifier
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
    "AsyncAdaptRun",
    "AsyncAdaptedModel",
    "AsyncClient",
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


# Where the names are that are not errors: whoever asks for one imports its module.
_MODULES = {
    "AccuracyEstimate": "results",
    "AdaptOptions": "options",
    "AdaptProgress": "adapt_run",
    "AdaptRun": "adapt_run",
    "AdaptedModel": "adapted_model",
    "AsyncAdaptRun": "aio.adapt_run",
    "AsyncAdaptedModel": "aio.adapted_model",
    "AsyncClient": "aio.client",
    "Capabilities": "capabilities",
    "Client": "client",
    "Description": "results",
    "ExampleNote": "results",
    "FewShotClassifier": "classifier",
    "Images": "inputs",
    "Label": "labels",
    "ModelCandidate": "results",
    "ModelCapabilities": "capabilities",
    "Prediction": "results",
    "Report": "results",
    "ResolvedOptions": "options",
    "TailReport": "results",
    "Timing": "results",
}

__getattr__ = _importer(__name__, dict.fromkeys(__all__, "errors") | _MODULES)


def __dir__() -> list[str]:
    """List the public names, whether or not they have been asked for."""
    return sorted({*globals(), *__all__})
