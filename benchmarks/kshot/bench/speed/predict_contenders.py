"""Contenders of `kshot bench predict`: functions from prepared queries to logits."""

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kshot.bench.speed.adapt_contenders import load_plain, named_parameters
from kshot.bench.speed.plain_loop import PlainConv4
from kshot.bench.speed.timed_task import comparable_network, open_initialization
from kshot.bundle import BatchNormMode, Bundle, Head, Preconditioner
from kshot.learner import start_state, support_statistics
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime
from kshot.server.store.adapted_model import AdaptedArrays

Floats = npt.NDArray[np.float32]
Answer = Callable[[Floats], Floats]

# Making a session takes milliseconds; after this time it is not being made at all.
SESSION_SECONDS = 60.0


@dataclass(frozen=True)
class Model:
    """An adapted model as the server keeps it and as a plain module, and its support set."""

    bundle: Bundle
    arrays: AdaptedArrays
    module: PlainConv4
    support: torch.Tensor


def make_model(bundle: Bundle, way: int, shot: int, device: torch.device) -> Model:
    """Make an adapted model of a bundle, for a support set of noise.

    Raises `ClickException` when the plain module does not implement the bundle's network.
    """
    initialization = open_initialization(bundle, device)
    network = comparable_network(initialization.network)
    start = start_state(initialization, way, head=Head.TRAINED, preconditioner=Preconditioner.SGD)
    stacked = start.layout.split(start.parameters)
    support = torch.from_numpy(noise(bundle, way * shot)).to(device)
    with torch.no_grad():
        statistics = support_statistics(network, stacked, support[None])
    parameters = named_parameters(start.layout, start.parameters)
    arrays = AdaptedArrays(
        {name: value.cpu().numpy() for name, value in parameters.items()},
        {name: value[0].cpu().numpy() for name, value in statistics.items()},
        support.cpu().numpy(),
    )
    return Model(bundle, arrays, load_plain(network, parameters), support)


def noise(bundle: Bundle, count: int) -> Floats:
    """Draw what the network takes, `(count, channels, height, width)`."""
    return np.random.default_rng(0).random(
        (count, *bundle.manifest.network_input_shape), np.float32
    )


def inputs(predictor: Predictor, model: Model, mode: BatchNormMode) -> Answer:
    """Answer as the server does for any adapted model: with its weights as inputs.

    The predictor must have no hot set.
    """
    return lambda queries: predictor.logits(model.arrays, queries, mode)


def constants(model: Model, runtime: Runtime, mode: BatchNormMode) -> Answer:
    """Answer as the server does for a model that predicts often: with a session of its own.

    Raises `ClickException` when the server makes no session.
    """
    hot_set = HotSet(1, after_images=1)
    predictor = Predictor(model.bundle, runtime, hot_set)
    answer = inputs(predictor, model, mode)
    until = time.monotonic() + SESSION_SECONDS
    while not hot_set:
        if time.monotonic() > until:
            raise click.ClickException("ONNX Runtime made no session with constants")
        answer(model.arrays.support)
        time.sleep(0.001)
    hot_set.close()
    return answer


def eager(model: Model, mode: BatchNormMode) -> Answer:
    """Answer with the plain module; logits are divided by the bundle's temperature, as served."""
    support, module = model.support, model.module
    way = len(model.arrays.parameters["head.bias"])
    temperature = model.bundle.manifest.temperature(mode, way, len(support))
    if mode is BatchNormMode.SUPPORT:
        module = _with_statistics(module, model.arrays.statistics, support.device)

    @torch.inference_mode()
    def answer(queries: Floats) -> Floats:
        inputs = torch.from_numpy(queries).to(support.device)
        if mode is BatchNormMode.SUPPORT_AND_QUERY:
            each = [module(torch.cat([support, query[None]]))[-1] for query in inputs]
            logits = torch.stack(each)
        else:
            logits = module(inputs)
        if temperature != 1:
            logits = logits / temperature
        result: Floats = logits.cpu().numpy()
        return result

    return answer


def _with_statistics(
    module: PlainConv4, statistics: Mapping[str, Floats], device: torch.device
) -> PlainConv4:
    """Copy the plain module with a support set's statistics frozen into it."""
    frozen = deepcopy(module)
    norms = [layer for layer in frozen.modules() if isinstance(layer, nn.BatchNorm2d)]
    for number, norm in enumerate(norms, start=1):
        norm.track_running_stats = True
        norm.running_mean, norm.running_var = (
            torch.from_numpy(statistics[f"block{number}.batch_norm.{moment}"]).to(device)
            for moment in ("mean", "variance")
        )
    return frozen.eval()
