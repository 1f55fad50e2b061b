"""What a bench sends: noise in the form that a served model takes, within its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt

from kshot.client import AdaptOptions, Capabilities, ModelCapabilities
from kshot.client.encoding import encode_images, encode_support
from kshot.client.options import encode_options
from kshot.v1 import adaptation_pb2 as wire

# Should a bench be killed, what it made on another's server goes by itself after this.
_TTL_SECONDS = 3600.0

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Workload:
    """The tasks and queries of a bench; the batch-norm mode None is the model's own."""

    way: int = 5
    shot: int = 1
    step_count: int = 10
    batch_norm_mode: str | None = None
    images: int = 1

    @property
    def options(self) -> AdaptOptions:
        """Return the options of each adaptation."""
        return AdaptOptions(
            step_count=self.step_count, batch_norm_mode=self.batch_norm_mode, ttl=_TTL_SECONDS
        )


def choose_model(capabilities: Capabilities, name: str | None) -> ModelCapabilities:
    """Find a served model, or the only one where none is named; raises ``UsageError``."""
    served = capabilities.models
    if name is None and len(served) > 1:
        raise click.UsageError(f"--model is needed, wanted one of: {', '.join(sorted(served))}")
    found = next(iter(served.values())) if name is None else served.get(name)
    if found is None:
        raise click.UsageError(
            f"--model is {name}, which the server does not serve, wanted one of: "
            f"{', '.join(sorted(served))}"
        )
    return found


def check_workload(workload: Workload, model: ModelCapabilities) -> None:
    """Hold a workload to what a model allows; raises ``UsageError``."""
    for option, value, most in (
        ("--way", workload.way, model.max_way),
        ("--way times --shot", workload.way * workload.shot, model.max_support_count),
        ("--step-count", workload.step_count, model.max_step_count),
        ("--images", workload.images, model.max_query_count),
    ):
        if value > most:
            raise click.UsageError(f"{option} is {value}, wanted at most {most}, as {model.model}")
    mode = workload.batch_norm_mode
    if mode is not None and mode not in model.batch_norm_modes:
        raise click.UsageError(
            f"--batch-norm-mode is {mode}, wanted one that {model.model} allows: "
            f"{', '.join(model.batch_norm_modes)}"
        )


def noise(input_shape: Sequence[int], count: int, seed: int = 0) -> Pixels:
    """Draw images of a model's input shape (channels, height, width), as clients send them.

    uint8 (count, height, width[, channels]) where an image can have so many channels, else prepared
    float32 (count, channels, height, width).
    """
    channels, height, width = input_shape
    generator = np.random.default_rng(seed)
    if channels not in (1, 3, 4):
        return generator.random((count, channels, height, width), np.float32)
    tail = () if channels == 1 else (channels,)
    return generator.integers(0, 256, (count, height, width, *tail), np.uint8)


def support_set(workload: Workload, model: ModelCapabilities) -> tuple[Pixels, list[int]]:
    """Draw a support set: images and their labels."""
    labels = [index % workload.way for index in range(workload.way * workload.shot)]
    return noise(model.input_shape, len(labels)), labels


def adapt_request(workload: Workload, model: ModelCapabilities) -> wire.AdaptRequest:
    """Write the request to adapt."""
    support, _classes = encode_support(*support_set(workload, model))
    options = encode_options(workload.options)
    return wire.AdaptRequest(model=model.model, support_set=support, options=options)


def queries(workload: Workload, model: ModelCapabilities) -> wire.Images:
    """Draw the queries of each request to predict."""
    return encode_images(noise(model.input_shape, workload.images, seed=1))
