"""A network of another package, checked before hours of training: tasks, export, equal answers."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from kshot.bundle import BatchNormMode
from kshot.learner import (
    Network,
    Parameters,
    initial_parameters,
    query_logits,
    support_statistics,
)
from kshot.trainer.bundling.onnx_templates import build_template
from kshot.trainer.errors import TrainingError

TASKS, SUPPORT, QUERIES, WAY = 2, 6, 4, 3
TOLERANCE = 1e-4


def check_network(network: Network, name: str, modes: Sequence[BatchNormMode]) -> None:
    """Raise `TrainingError` unless a network can be trained and served in these modes.

    Parameters of T tasks give what each task's alone give, so do shared ones (T = 1); the shapes
    are what the network says; each mode's ONNX template answers as torch does, for another number
    of queries and classes than it was made with. Takes some seconds a mode.
    """
    generator = torch.Generator().manual_seed(0)
    tasks = [initial_parameters(network, WAY, generator) for _ in range(TASKS)]
    own = {key: torch.stack([task[key] for task in tasks]) for key in tasks[0]}
    images = torch.rand(TASKS, SUPPORT, *network.input_shape, generator=generator)
    try:
        _check_tasks(network, name, own, images)
    except TrainingError:
        raise
    except Exception as error:  # a third party's function may raise anything
        raise _problem(name, "features failed on random images", error) from error
    shared = {key: value[:1] for key, value in own.items()}
    for mode in modes:
        _check_template(network, name, mode, shared, images[:1])


def _check_tasks(network: Network, name: str, own: Parameters, images: Tensor) -> None:
    together, statistics = network.features(own, images, None)
    wanted = (TASKS, SUPPORT, network.feature_count)
    if together.shape != wanted:
        raise _wrong(name, f"features of shape {wanted}", tuple(together.shape))
    shapes = {key: (TASKS, *shape) for key, shape in network.statistics_shapes.items()}
    got = {key: tuple(value.shape) for key, value in statistics.items()}
    if got != shapes:
        raise _wrong(name, f"statistics of shapes {shapes}", got)
    shared = {key: value[:1] for key, value in own.items()}
    for task in range(TASKS):
        one = {key: value[task : task + 1] for key, value in own.items()}
        alone, _ = network.features(one, images[task : task + 1], None)
        _expect_equal(name, "tasks side by side", together[task], alone[0])
        alone, _ = network.features(shared, images[task : task + 1], None)
        both, _ = network.features(shared, images, None)
        _expect_equal(name, "tasks that share their parameters (T = 1)", both[task], alone[0])


def _check_template(
    network: Network, name: str, mode: BatchNormMode, parameters: Parameters, images: Tensor
) -> None:
    try:
        session = onnxruntime.InferenceSession(
            build_template(network, mode), providers=["CPUExecutionProvider"]
        )
        feeds = {key: value[0].numpy() for key, value in parameters.items()}
        feeds["inputs"] = images[0, :QUERIES].numpy()
        if mode is BatchNormMode.SUPPORT:
            frozen = support_statistics(network, parameters, images)
            feeds |= {key: value[0].numpy() for key, value in frozen.items()}
        elif mode is BatchNormMode.SUPPORT_AND_QUERY:
            feeds["support"] = images[0].numpy()
        (found,) = session.run(None, feeds)
    except Exception as error:  # so may the exporter and ONNX Runtime
        raise _problem(name, f"mode {mode} cannot be exported to ONNX and run", error) from error
    with torch.no_grad():
        wanted = query_logits(network, parameters, images[:, :QUERIES], images, mode)[0]
    _expect_equal(name, f"mode {mode} in ONNX Runtime", torch.from_numpy(np.asarray(found)), wanted)


def _expect_equal(name: str, what: str, got: Tensor, wanted: Tensor) -> None:
    if got.shape != wanted.shape:
        raise _wrong(name, f"{what}: shape {tuple(wanted.shape)}", tuple(got.shape))
    scale = max(float(wanted.detach().abs().max()), 1e-12)
    difference = float((got - wanted).detach().abs().max()) / scale
    if not difference <= TOLERANCE:
        raise _wrong(
            name,
            f"{what}: the numbers of one task alone, to {TOLERANCE:g}",
            f"a relative difference of {difference:.2g}",
        )


def _wrong(name: str, expected: str, got: object) -> TrainingError:
    return TrainingError(
        f"network {name!r}: expected {expected}, got {got}; CONTRIBUTING.md says what a network is"
    )


def _problem(name: str, what: str, error: Exception) -> TrainingError:
    reason = next(iter(str(error).strip().splitlines()), "")[:300]
    return TrainingError(f"network {name!r}: {what}: {type(error).__name__}: {reason}")
