"""The same inner loop in JAX: jit, a scan over the steps, convolutions as matrix products.

A reference on the CPU, where JAX is installed.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Tree = dict[str, Array]
DECAY = 0.999
EPSILON = 1e-8
BLOCK_COUNT = 4


@dataclass(frozen=True)
class Loop:
    """The constants that are compiled into the loop."""

    learning_rate: float
    batch_norm_epsilon: float = 1e-3


class State(NamedTuple):
    """Parameters, Adam's second moment v of each, and Adam's step t."""

    parameters: Tree
    second_moment: Tree
    step: Array


def _adapt(
    loop: Loop, state: State, support: Array, classes: Array, batches: Array
) -> tuple[State, Array]:
    """Adapt to one task: support `(n, height, width, channels)`, batches `(steps, batch)`.

    Returns the state afterwards and the loss of each step before its update.
    """
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


adapt = jax.jit(_adapt, static_argnames="loop")


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
    """Do one meta-iteration on T tasks; returns the state and the mean loss of their inner steps.

    `serial` scans over the tasks and carries v from each to the next, as the paper's code does;
    otherwise they run side by side under vmap, and their mean v is carried. Images are uint8
    `(image_count, height, width, channels)`, rows `(T, n)`, classes `(n,)`, batches
    `(T, steps, batch)`.
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
    """Lay the 3x3 patches at stride 2 side by side: `(n, height', width', 9 * channels)`."""
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
