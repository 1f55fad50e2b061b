"""The capabilities that a server reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kshot.client.options import ResolvedOptions, decode_choice, decode_options, seconds
from kshot.v1 import adaptation_pb2 as wire


@dataclass(frozen=True)
class ModelCapabilities:
    """The options and limits of one served model; `input_shape` is (channels, height, width).

    Probabilities are calibrated in the modes of `calibrated_batch_norm_modes`. Images may be shrunk
    until their shorter side has `max_useful_side` pixels; 0 means that every pixel may count. The
    default step count is that of the first pair in `step_count_by_shot`, (greatest number of
    examples per class, step count), that a task fits, or else that of `default_options`. An encoder
    turns each image into what has `encoded_shape`; without one, that is empty like its digest. An
    image takes `image_mac_count` multiply-accumulate operations, of which a request to predict may
    take `max_predict_mac_count`. `model@label` with one of `labels`, and `model@version`, name this
    version.
    """

    model: str
    version: int
    bundle_digest: str
    input_shape: tuple[int, ...]
    default_options: ResolvedOptions
    batch_norm_modes: tuple[str, ...]
    preconditioners: tuple[str, ...]
    heads: tuple[str, ...]
    scopes: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    max_way: int
    max_support_count: int
    max_query_count: int
    max_step_count: int
    max_learning_rate: float
    training_way: int
    training_shot: int
    calibrated_batch_norm_modes: tuple[str, ...]
    max_useful_side: int
    step_count_by_shot: tuple[tuple[int, int], ...]
    encoder_digest: str
    encoded_shape: tuple[int, ...]
    image_mac_count: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """A server's models by name, its limits, and its engines' device, empty without an engine.

    Further versions of a model are under `NAME@VERSION`. `tenant` is the caller's on a server with
    keys; its limits hold beside those of the server, and 0 means none of its own.

    `engine_count` counts the engines that can adapt now, `compiling_step_count` the inner steps
    that are being compiled or wait for that; until then plain ones run, which take longer.
    """

    server_version: str
    models: Mapping[str, ModelCapabilities]
    max_message_bytes: int
    max_image_pixels: int
    max_request_pixels: int
    max_predict_image_count: int
    max_predict_mac_count: int
    max_answer_bytes: int
    max_connection_call_count: int
    max_adapted_model_count: int
    max_adapted_model_bytes: int
    default_ttl: float
    max_ttl: float
    max_adapt_queue_count: int
    device: str
    device_name: str
    compute_path: str
    engine_count: int
    compiling_step_count: int
    request_id_ttl: float = 0.0
    tenant: str = ""
    tenant_adapted_model_count: int = 0
    tenant_adapted_model_bytes: int = 0
    tenant_adapt_seconds: float = 0.0
    tenant_call_count: int = 0


def decode_capabilities(response: wire.GetCapabilitiesResponse) -> Capabilities:
    """Read the capabilities of a server."""
    limits, engine = response.limits, response.engine
    return Capabilities(
        server_version=response.server_version,
        models=_by_name(response.models),
        max_message_bytes=limits.max_message_bytes,
        max_image_pixels=limits.max_image_pixels,
        max_request_pixels=limits.max_request_pixels,
        max_predict_image_count=limits.max_predict_image_count,
        max_predict_mac_count=limits.max_predict_mac_count,
        max_answer_bytes=limits.max_answer_bytes,
        max_connection_call_count=limits.max_connection_call_count,
        max_adapted_model_count=limits.max_adapted_model_count,
        max_adapted_model_bytes=limits.max_adapted_model_bytes,
        default_ttl=seconds(limits.default_ttl),
        max_ttl=seconds(limits.max_ttl),
        max_adapt_queue_count=limits.max_adapt_queue_count,
        device=engine.device,
        device_name=engine.device_name,
        compute_path=engine.compute_path,
        engine_count=engine.process_count,
        compiling_step_count=engine.compiling_step_count,
        request_id_ttl=seconds(limits.request_id_ttl),
        tenant=limits.tenant,
        tenant_adapted_model_count=limits.tenant_adapted_model_count,
        tenant_adapted_model_bytes=limits.tenant_adapted_model_bytes,
        tenant_adapt_seconds=limits.tenant_adapt_seconds,
        tenant_call_count=limits.tenant_call_count,
    )


def _by_name(models: Iterable[wire.ModelCapabilities]) -> dict[str, ModelCapabilities]:
    found: dict[str, ModelCapabilities] = {}
    for model in models:
        name = model.model if model.model not in found else f"{model.model}@{model.version}"
        found[name] = _model_capabilities(model)
    return found


def _model_capabilities(model: wire.ModelCapabilities) -> ModelCapabilities:
    return ModelCapabilities(
        model=model.model,
        version=model.version,
        bundle_digest=model.bundle_digest,
        input_shape=tuple(model.input_shape),
        default_options=decode_options(model.default_options),
        batch_norm_modes=_choices("batch_norm_mode", model.batch_norm_modes),
        preconditioners=_choices("preconditioner", model.preconditioners),
        heads=_choices("head", model.heads),
        scopes=_choices("scope", model.scopes),
        batch_sizes=tuple(model.batch_sizes),
        max_way=model.max_way,
        max_support_count=model.max_support_count,
        max_query_count=model.max_query_count,
        max_step_count=model.max_step_count,
        max_learning_rate=model.max_learning_rate,
        training_way=model.training_way,
        training_shot=model.training_shot,
        calibrated_batch_norm_modes=_choices("batch_norm_mode", model.calibrated_batch_norm_modes),
        max_useful_side=model.max_useful_side,
        step_count_by_shot=tuple(
            (rule.max_shot, rule.step_count) for rule in model.step_count_by_shot
        ),
        encoder_digest=model.encoder_digest,
        encoded_shape=tuple(model.encoded_shape),
        image_mac_count=model.image_mac_count,
        labels=tuple(model.labels),
    )


def _choices(kind: str, numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(decode_choice(kind, number) for number in numbers)
