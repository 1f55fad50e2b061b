"""CUDA graphs of inner steps: one launch for all of a step's kernels, or for all of a loop's."""

from collections.abc import Callable

import torch
from torch import Tensor

from kshot.learner.steps.inner_step import InnerStep
from kshot.learner.steps.step_tables import StepTables

WARM_UP_RUNS = 3


def graphed(step: InnerStep, device: torch.device) -> InnerStep:
    """Return a step that launches as one CUDA graph on a GPU; elsewhere return the step itself.

    A small network's step is bound by its launches. The graph is taken at the first call, of
    buffers of its own: later calls copy their arguments there, so all calls must have the shapes
    of the first. Nothing waits for the device.
    """
    return step if device.type != "cuda" else GraphedStep(step)


class GraphedStep:
    """An inner step on a GPU that launches as one CUDA graph, and so does a loop of steps."""

    def __init__(self, step: InnerStep) -> None:
        self._step = step
        self._alone: _Graph | None = None
        self._loops: dict[tuple[torch.Size, ...], _Graph] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Take a step, as an `InnerStep` does."""
        if self._alone is None:
            self._alone = _Graph(self._step, arguments)
        return self._alone(arguments)

    def take_steps(self, *arguments: Tensor) -> Tensor:
        """Take a loop's steps in one launch: arguments of `StepTables.of` to losses `(steps, T)`.

        A graph is kept for each number of steps and each shape.
        """
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self._loops:
            self._loops[shapes] = _Graph(self._take_all, arguments)
        return self._loops[shapes](arguments)

    def _take_all(self, *arguments: Tensor) -> Tensor:
        return StepTables.of(*arguments).take_steps(self._step)


class _Graph:
    """The CUDA graph of a function that updates its first two arguments, with its own buffers."""

    def __init__(self, function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> None:
        """Warm up on a separate stream, as capturing requires, then capture the graph."""
        self._buffers = tuple(argument.clone() for argument in arguments)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types for it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                function(*self._buffers)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses = function(*self._buffers)

    def __call__(self, arguments: tuple[Tensor, ...]) -> Tensor:
        for buffer, argument in zip(self._buffers, arguments, strict=True):
            buffer.copy_(argument, non_blocking=True)
        self._graph.replay()
        for argument, buffer in zip(arguments[:2], self._buffers, strict=False):
            argument.copy_(buffer, non_blocking=True)
        return self._losses.clone()
