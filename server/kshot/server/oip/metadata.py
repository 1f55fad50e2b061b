"""What stock clients hear of a model: its inputs, its outputs and facts about it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from kshot.oip.v2 import grpc_service_pb2 as wire
from kshot.server.oip.contents import FIELDS, INPUT
from kshot.server.oip.decode import EMBEDDING, LABELS, LOGITS, PROBABILITIES
from kshot.server.predict.catalog import ServedModel
from kshot.server.store.adapted_model import AdaptedModelRecord

_PLATFORM = "onnx_onnxv1"

Tensor = wire.ModelMetadataResponse.TensorMetadata


def model_metadata(
    name: str, model: ServedModel, adapted: AdaptedModelRecord | None
) -> wire.ModelMetadataResponse:
    """Describe an initialization, or a model that was adapted from it, without their versions."""
    manifest = model.bundle.manifest
    response = wire.ModelMetadataResponse(name=name, platform=_PLATFORM, inputs=[_input(model)])
    facts = {
        "bundle_digest": model.bundle.digest,
        "input_datatypes": ",".join(FIELDS if manifest.input.preprocessing else ["FP32"]),
        "prepared_shape": json.dumps(manifest.input.shape),
        "max_query_count": str(manifest.limits.max_query_count),
    }
    if adapted is not None:
        way = len(adapted.class_names)
        response.outputs.add(name=PROBABILITIES, datatype="FP32", shape=[-1, way])
        response.outputs.add(name=LABELS, datatype="BYTES", shape=[-1])
        facts |= _adapted_facts(adapted)
    elif model.encoder is not None:
        response.outputs.add(name=EMBEDDING, datatype="FP32", shape=[-1, manifest.feature_count])
        facts["encoder_digest"] = model.bundle.encoder_digest or ""
    response.properties.update(facts)
    return response


def _input(model: ServedModel) -> Tensor:
    spec = model.bundle.manifest.input
    if spec.preprocessing:
        return Tensor(name=INPUT, datatype="UINT8", shape=[-1, -1, -1, spec.shape[0]])
    return Tensor(name=INPUT, datatype="FP32", shape=[-1, spec.shape[0]])


def _adapted_facts(adapted: AdaptedModelRecord) -> dict[str, str]:
    return {
        "model": adapted.model,
        "way": str(len(adapted.class_names)),
        "class_names": json.dumps(adapted.class_names),
        "batch_norm_mode": adapted.options.batch_norm_mode,
        "weights_digest": adapted.weights_digest,
        "optional_outputs": LOGITS,
        "create_time": _time(adapted.create_time),
        "expire_time": _time(adapted.expire_time),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
