"""Which RPC answers which method and path: one table for the routing and its description."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from google.protobuf.descriptor import MethodDescriptor

from kshot.v1 import adaptation_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["AdaptationService"]
MODELS = "/v1/adapted_models"
ONE = MODELS + "/{adapted_model}"


class Body(Enum):
    """What a request carries besides its path."""

    NOTHING = "nothing"
    QUERY = "query parameters"
    JSON = "JSON"
    FILE = "a file"


@dataclass(frozen=True)
class Route:
    """A method and a path, and the RPC behind it; `{adapted_model}` is a field of its request."""

    method: str
    path: str
    rpc: str
    body: Body
    summary: str

    @property
    def descriptor(self) -> MethodDescriptor:
        """Return the RPC's descriptor."""
        return SERVICE.methods_by_name[self.rpc]


# Paths with a verb come before those that would take the verb for a part of the id.
ROUTES = (
    Route("GET", "/v1/capabilities", "GetCapabilities", Body.NOTHING, "Describe the server."),
    Route("POST", f"{MODELS}:stream", "AdaptStream", Body.JSON, "Adapt, and tell the progress."),
    Route("POST", f"{MODELS}:predict", "AdaptAndPredict", Body.JSON, "Adapt, classify, forget."),
    Route("POST", f"{MODELS}:import", "ImportAdaptedModel", Body.FILE, "Take an export back."),
    Route("POST", MODELS, "Adapt", Body.JSON, "Adapt a model to labelled images."),
    Route("GET", MODELS, "ListAdaptedModels", Body.QUERY, "List adapted models."),
    Route("POST", f"{ONE}:predict", "Predict", Body.JSON, "Classify images."),
    Route("POST", f"{ONE}:revise", "ReviseAdaptedModel", Body.JSON, "Adapt to changed examples."),
    Route("GET", f"{ONE}:export", "ExportAdaptedModel", Body.QUERY, "Download an ONNX file."),
    Route("GET", ONE, "GetAdaptedModel", Body.NOTHING, "Describe an adapted model."),
    Route("PATCH", ONE, "UpdateAdaptedModel", Body.JSON, "Change when it expires."),
    Route("DELETE", ONE, "DeleteAdaptedModel", Body.NOTHING, "Delete an adapted model."),
)
