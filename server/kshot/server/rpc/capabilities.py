"""The server's capabilities as a message."""

from __future__ import annotations

from collections.abc import Mapping

from kshot.bundle import Manifest, useful_side
from kshot.server.access.limits import UNLIMITED, Limits
from kshot.server.config import ServerConfig
from kshot.server.engine_link.client import EngineFacts
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.options import Bounds, TtlLimits, resolve_options
from kshot.server.request.violations import Violations
from kshot.server.rpc.encode import choice_value, duration_message, options_message
from kshot.server.watch.version import server_version
from kshot.v1 import adaptation_pb2 as wire


def capabilities_message(
    models: Mapping[str, ServedModel],
    config: ServerConfig,
    facts: EngineFacts | None,
    tenant: tuple[str, Limits] = ("", UNLIMITED),
) -> wire.GetCapabilitiesResponse:
    """Describe models by name, the limits of server and tenant, and the engine if there is one."""
    name, limits = tenant
    return wire.GetCapabilitiesResponse(
        server_version=server_version(),
        models=[_model(name, model, config) for name, model in models.items()],
        limits=wire.ServerLimits(
            max_message_bytes=config.max_message_bytes,
            max_image_pixels=config.max_image_pixels,
            max_adapted_model_count=config.max_adapted_models,
            max_adapted_model_bytes=config.max_adapted_bytes,
            default_ttl=duration_message(config.default_ttl),
            max_ttl=duration_message(config.max_ttl),
            max_adapt_queue_count=config.max_adapt_queue,
            max_request_pixels=config.max_request_pixels,
            max_predict_image_count=config.max_predict_images,
            max_predict_mac_count=config.max_predict_macs,
            max_answer_bytes=config.max_answer_bytes,
            max_connection_call_count=config.max_connection_calls,
            request_id_ttl=duration_message(config.request_id_ttl),
            tenant=name,
            **limits.on_wire(),
        ),
        engine=None if facts is None else _engine(facts),
    )


def _engine(facts: EngineFacts) -> wire.EngineDescription:
    return wire.EngineDescription(
        device=facts.device,
        device_name=facts.device_name,
        compute_path=facts.compute_path,
        process_count=facts.process_count,
        compiling_step_count=facts.compiling_step_count,
    )


def _model(name: str, model: ServedModel, config: ServerConfig) -> wire.ModelCapabilities:
    manifest = model.bundle.manifest
    limits = manifest.limits
    return wire.ModelCapabilities(
        model=name,
        version=manifest.version,
        bundle_digest=model.bundle.digest,
        input_shape=manifest.input.shape,
        default_options=_default_options(manifest, config),
        batch_norm_modes=map(choice_value, manifest.batch_norm.allowed),
        preconditioners=map(choice_value, manifest.inner_loop.preconditioners),
        heads=map(choice_value, manifest.head.allowed),
        scopes=map(choice_value, manifest.scope.allowed),
        batch_sizes=manifest.inner_loop.batch_sizes,
        max_way=limits.max_way,
        max_support_count=limits.max_support_count,
        max_query_count=limits.max_query_count,
        max_step_count=limits.max_step_count,
        max_learning_rate=limits.max_learning_rate,
        training_way=manifest.training.way,
        training_shot=manifest.training.shot,
        calibrated_batch_norm_modes=map(choice_value, manifest.calibrated_modes),
        image_mac_count=model.image_mac_count,
        encoder_digest=model.bundle.encoder_digest or "",
        encoded_shape=() if manifest.encoder is None else manifest.encoder.output_shape,
        max_useful_side=useful_side(manifest.input),
        labels=model.labels,
        step_count_by_shot=[
            wire.StepCountRule(max_shot=rule.max_shot, step_count=rule.step_count)
            for rule in manifest.inner_loop.step_count_by_shot or ()
        ],
    )


def _default_options(manifest: Manifest, config: ServerConfig) -> wire.AdaptOptions:
    ttl = TtlLimits(config.default_ttl, config.max_ttl)
    bounds = Bounds(manifest, manifest.training.way, manifest.limits.max_support_count, ttl)
    message = options_message(resolve_options({}, bounds, Violations()))
    message.step_count = manifest.inner_loop.step_count  # of tasks that no rule fits
    message.ClearField("batch_size")  # it depends on the number of classes
    return message
