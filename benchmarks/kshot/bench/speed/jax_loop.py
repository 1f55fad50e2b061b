"""The same inner loop in JAX: jit, a scan over the steps, convolutions as matrix products.

A reference, where JAX is installed; on the CPU only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import torch
from jax import Array, lax

__all__ = [
    "Loop",
    "State",
    "adapt",
    "from_names",
    "limit_threads",
    "on_device",
    "reptile_iteration",
    "to_names",
    "wait",
    "whole",
]

Tree = dict[str, Array]
DECAY = 0.999
EPSILON = 1e-8
BLOCK_COUNT = 4


@dataclass(frozen=True)
class Loop:
    """What the loop is compiled for, besides its shapes."""

    learning_rate: float
    batch_norm_epsilon: float = 1e-3


class State(NamedTuple):
    """Parameters, Adam's second moment v of each, and Adam's step t."""

    parameters: Tree
    second_moment: Tree
    step: Array


def limit_threads(count: int) -> None:
    """Give JAX so many threads; it takes effect before JAX's first computation only."""
    os.environ["NPROC"] = str(count)  # sizes XLA's pools
    flag = f"--xla_cpu_multi_thread_eigen={str(count > 1).lower()}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def whole(number: int) -> Array:
    """Make a number into what the loop counts with, so that no other number compiles it again."""
    return jnp.asarray(number, jnp.int32)


def on_device(images: npt.NDArray[np.uint8]) -> Array:
    """Hand JAX its images once."""
    return jnp.asarray(images)


def wait(state: State) -> None:
    """Wait until a state is computed."""
    jax.block_until_ready(state)  # type: ignore[no-untyped-call]  # jax leaves it untyped


def from_names(parameters: Mapping[str, torch.Tensor]) -> Tree:
    """Bring parameters of a bundle to the loop's shapes, ``(9 * channels, filters)`` kernels."""
    tree = {}
    for name, tensor in parameters.items():
        value = tensor.numpy()
        if name.endswith("convolution.weight"):
            tree[name] = jnp.asarray(value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0]))
        else:
            tree[name] = jnp.asarray(value.T)
    return tree


def to_names(tree: Tree) -> dict[str, torch.Tensor]:
    """Bring the loop's parameters back to a bundle's shapes."""
    parameters = {}
    for name, value in tree.items():
        array = np.array(value)
        if name.endswith("convolution.weight"):
            array = array.reshape(3, 3, -1, array.shape[1]).transpose(3, 2, 0, 1)
        else:
            array = array.T
        parameters[name] = torch.from_numpy(array.copy())
    return parameters


def _adapt(
    loop: Loop, state: State, support: Array, classes: Array, batches: Array
) -> tuple[State, Array]:
    # The first layer's columns do not change in the loop: each batch takes its rows of them.
    columns = _columns(support)

    def inner_step(before: State, rows: Array) -> tuple[State, Array]:
        loss, gradients = jax.value_and_grad(_loss)(
            before.parameters, columns[rows], classes[rows], loop.batch_norm_epsilon
        )
        step = before.step + 1
        size = loop.learning_rate * jnp.sqrt(1 - DECAY ** step.astype(jnp.float32))
        moments = jax.tree.map(
            lambda v, g: DECAY * v + (1 - DECAY) * g * g, before.second_moment, gradients
        )
        values = jax.tree.map(
            lambda p, v, g: p - size * g / (jnp.sqrt(v) + EPSILON),
            before.parameters,
            moments,
            gradients,
        )
        return State(values, moments, step), loss

    return lax.scan(inner_step, state, batches)


@partial(jax.jit, static_argnames="loop")
def adapt(
    state: State, support: Array, classes: Array, batches: Array, *, loop: Loop
) -> tuple[State, Array]:
    """Adapt to one task: support ``(n, height, width, channels)``, batches ``(steps, batch)``.

    Returns the state afterwards and the loss of each step before its update.
    """
    return _adapt(loop, state, support, classes, batches)


@partial(jax.jit, static_argnames=("loop", "serial"))
def reptile_iteration(
    state: State,
    images: Array,
    rows: Array,
    classes: Array,
    batches: Array,
    meta_step_size: Array,
    *,
    loop: Loop,
    serial: bool,
) -> tuple[State, Array]:
    """Do one meta-iteration on T tasks and return the mean loss of their inner steps too.

    ``serial`` scans over the tasks and carries v from each to the next, as the paper's code does;
    else they go side by side under vmap, and their mean v is carried. Images are uint8
    ``(image_count, height, width, channels)``, rows ``(T, n)``, classes ``(n,)``, batches
    ``(T, steps, batch)``.
    """
    support = images[rows].astype(jnp.float32) / 255

    def adapt_one(before: State, task: tuple[Array, Array]) -> tuple[State, tuple[Tree, Array]]:
        adapted, losses = _adapt(loop, before, task[0], classes, task[1])
        after = State(state.parameters, adapted.second_moment, adapted.step)
        return after, (adapted.parameters, losses.mean())

    if serial:
        after, (adapted, losses) = lax.scan(adapt_one, state, (support, batches))
        moments = after.second_moment
    else:
        each, (adapted, losses) = jax.vmap(adapt_one, in_axes=(None, 0))(state, (support, batches))
        moments = jax.tree.map(lambda v: v.mean(axis=0), each.second_moment)
    moved = jax.tree.map(
        lambda p, a: p + meta_step_size * (a.mean(axis=0) - p), state.parameters, adapted
    )
    task_count, step_count, _ = batches.shape
    taken = state.step + step_count * (task_count if serial else 1)
    return State(moved, moments, taken), losses.mean()


def _loss(parameters: Tree, columns: Array, classes: Array, epsilon: float) -> Array:
    hidden = columns
    for block in range(1, BLOCK_COUNT + 1):
        if block > 1:
            hidden = _columns(hidden)
        hidden = hidden @ parameters[f"block{block}.convolution.weight"]
        mean = hidden.mean(axis=(0, 1, 2))
        difference = hidden - mean
        variance = (difference * difference).mean(axis=(0, 1, 2))
        scale = parameters[f"block{block}.batch_norm.scale"] * lax.rsqrt(variance + epsilon)
        hidden = jax.nn.relu(difference * scale + parameters[f"block{block}.batch_norm.shift"])
    # The head's rows are in the order channels, height, width.
    features = hidden.transpose(0, 3, 1, 2).reshape(hidden.shape[0], -1)
    logits = features @ parameters["head.weight"] + parameters["head.bias"]
    likelihoods = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(likelihoods, classes[:, None], axis=1).mean()


def _columns(images: Array) -> Array:
    """Lay the 3x3 patches at stride 2 side by side: ``(n, height', width', 9 * channels)``."""
    _, height, width, _ = images.shape
    rows, columns = math.ceil(height / 2), math.ceil(width / 2)
    # TensorFlow's SAME: an even side is padded by (0, 1), an odd one by (1, 1).
    padded = jnp.pad(images, ((0, 0), (height % 2, 1), (width % 2, 1), (0, 0)))
    patches = [
        padded[:, top : top + 2 * rows - 1 : 2, left : left + 2 * columns - 1 : 2]
        for top in range(3)
        for left in range(3)
    ]
    return jnp.concatenate(patches, axis=-1)
