"""The outer loop on a GPU: what only such a machine can show."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.loop.image_run import image_loop
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterMoments, OuterState
from kshot.trainer.loop.step_compilation import compiled_loop
from kshot.trainer.recipe.recipe import Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.parametrize("meta_batch", ["serial", "stacked"]),
    pytest.mark.parametrize(
        ("kind", "compiled"),
        [
            ("reptile", False),
            ("reptile", True),
            ("fomaml", False),
            ("fomaml", True),
            ("queries", False),
            ("queries", True),
            ("updates and queries", True),
            ("maml", False),  # second derivatives do not go through compiled steps
        ],
    ),
]
TAIL = "task.tail_shot=1"
OUTER_ADAM = ("outer.optimizer=adam", "outer.meta_step_size=0.01", TAIL)
SGD = (
    *("inner.preconditioner=sgd", "inner.learning_rate=0.1"),
    *("serving.preconditioners=['sgd']", "serving.preconditioner=sgd"),
)
# Outer SGD: prototypes leave some gradients zero but for rounding, which Adam makes whole steps of.
QUERIES = (
    *("outer.algorithm=fomaml", "task.head=prototype", "task.tail_batch_norm=support"),
    "serving.head={ default = 'prototype', allowed = ['prototype'] }",
    "augmentation={ flip = false, shift = 0.1, rotation_degrees = 10.0, scale = 0.1 }",
    *(TAIL, "outer.meta_step_size=10.0", *SGD),
)
KINDS = {
    "reptile": (),
    "fomaml": ("outer.algorithm=fomaml", *OUTER_ADAM),
    "queries": (*QUERIES, "inner.step_count=1"),
    "updates and queries": (*QUERIES, "inner.step_count=3"),
    "maml": ("outer.algorithm=maml", *SGD, *OUTER_ADAM),
}
Loops = Callable[[str], tuple[OuterLoop, OuterState]]


@pytest.fixture
def make_loop(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    meta_batch: str,
    kind: str,
    compiled: bool,
) -> Loops:
    """Return a function from a device to a loop and a state in the midst of a training."""
    settings = (f"outer.meta_batch={meta_batch}", "outer.meta_batch_size=3", *KINDS[kind])
    recipe = small_recipe(*settings)

    def make(name: str) -> tuple[OuterLoop, OuterState]:
        device = torch.device(name)
        loop = image_loop(recipe, patterns(), device)
        generator = torch.Generator().manual_seed(3)
        parameters = torch.randn(loop.layout.size, generator=generator) * 0.1
        moment = 1e-4 + 1e-2 * torch.rand(loop.layout.size, generator=generator)
        state = OuterState(parameters.to(device), moment.to(device), 40, 0)
        if recipe.outer.optimizer == "adam":
            zeros = torch.zeros_like(state.parameters)
            state = replace(state, moments=OuterMoments(zeros, zeros))
        loop = compiled_loop(loop, recipe, state, compiled=compiled, say=lambda _sentence: None)
        return loop, state

    return make


@pytest.fixture
def waits_are_errors() -> Iterator[Callable[[], None]]:
    """Return a function after which an operation that waits for the GPU raises."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def test_a_gpu_trains_as_a_cpu_and_leaves_old_states_alone(make_loop: Loops) -> None:
    """Float32, three meta-iterations."""
    ends = {}
    for name in ("cpu", "cuda"):
        loop, state = make_loop(name)
        for number in range(3):
            before, copy = state, state.second_moment.clone()
            state, loss = loop.advance(state, loop.tasks.draw(number))
            assert torch.equal(before.second_moment, copy)
        ends[name] = state.parameters.cpu(), state.second_moment.cpu(), loss.cpu()

    torch.testing.assert_close(ends["cuda"], ends["cpu"], atol=1e-4, rtol=1e-3)


def test_a_meta_iteration_does_not_wait_for_the_gpu(
    make_loop: Loops, waits_are_errors: Callable[[], None]
) -> None:
    loop, state = make_loop("cuda")
    state, _ = loop.advance(state)  # takes the graph
    torch.cuda.synchronize()

    waits_are_errors()
    state, loss = loop.advance(state)
    torch.cuda.set_sync_debug_mode("default")

    assert torch.isfinite(loss)
    assert state.meta_iteration == 2
