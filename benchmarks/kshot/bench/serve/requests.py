"""The requests of `kshot bench serve` as bytes: noise in the form that a served model takes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt

from kshot.bench.options import check_choice, check_limits
from kshot.client import AdaptOptions, Capabilities, ModelCapabilities
from kshot.client.encoding import encode_images, encode_support
from kshot.client.options import encode_options
from kshot.v1 import adaptation_pb2 as wire

# A killed bench leaves its adapted models on another's server; they expire after this time.
_TTL_SECONDS = 3600.0

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Workload:
    """The tasks and queries of a bench; None means the model's default."""

    way: int = 5
    shot: int = 1
    step_count: int | None = 10
    batch_norm_mode: str | None = None
    images: int = 1

    @property
    def options(self) -> AdaptOptions:
        """Return the options of each adaptation."""
        return AdaptOptions(
            step_count=self.step_count, batch_norm_mode=self.batch_norm_mode, ttl=_TTL_SECONDS
        )


def choose_model(capabilities: Capabilities, name: str | None) -> ModelCapabilities:
    """Return a served model, or the only one where no name is given; raises `UsageError`."""
    served = capabilities.models
    if name is None and len(served) > 1:
        raise click.UsageError(f"--model: required, expected one of {', '.join(sorted(served))}")
    name = name or next(iter(served))
    check_choice("--model", name, sorted(served), "the server's models")
    return served[name]


def check_workload(workload: Workload, model: ModelCapabilities) -> None:
    """Check a workload against a model's limits; raises `UsageError`."""
    check_limits(
        model,
        model.model,
        way=workload.way,
        shot=workload.shot,
        step_count=workload.step_count or 0,
        images=workload.images,
    )
    if workload.batch_norm_mode is not None:
        modes = model.batch_norm_modes
        check_choice("--batch-norm-mode", workload.batch_norm_mode, modes, model.model)


def noise(input_shape: Sequence[int], count: int, seed: int = 0) -> Pixels:
    """Draw images of a model's input shape (channels, height, width), as clients send them.

    uint8 `(count, height, width[, channels])` with 1, 3 or 4 channels, otherwise prepared float32
    `(count, channels, height, width)`.
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


def adapt_requests(workload: Workload, model: ModelCapabilities) -> Callable[[], bytes]:
    """Return a function that gives the request to adapt with another seed each time.

    A server may answer equal requests by one run. Protobuf merges messages that are concatenated,
    so only the seed is encoded anew.
    """
    support, _classes = encode_support(*support_set(workload, model))
    options = encode_options(workload.options)
    request = wire.AdaptRequest(model=model.model, support_set=support, options=options)
    fixed = request.SerializeToString()
    seeds = itertools.count(1)

    def next_request() -> bytes:
        options = wire.AdaptOptions(seed=next(seeds))
        return fixed + wire.AdaptRequest(options=options).SerializeToString()

    return next_request


def predict_requests(adapted_models: Sequence[str], queries: Pixels) -> Callable[[], bytes]:
    """Return a function that gives requests to each adapted model in turn."""
    images = encode_images(queries)
    requests = [
        wire.PredictRequest(adapted_model=name, queries=images).SerializeToString()
        for name in adapted_models
    ]
    return itertools.cycle(requests).__next__
