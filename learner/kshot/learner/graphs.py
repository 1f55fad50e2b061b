"""CUDA graphs of inner steps: one launch for all of a step's kernels."""

import torch
from torch import Tensor

from kshot.learner.inner_step import InnerStep

WARM_UP_STEPS = 3


def graphed(step: InnerStep, device: torch.device) -> InnerStep:
    """Return a step that launches as one CUDA graph on a GPU, the step itself elsewhere.

    A small network's step is bound by its launches. The graph is taken at the first call, of
    buffers of its own: later calls copy their arguments there, so all calls must have the shapes
    of the first. Nothing waits for the device.
    """
    return step if device.type != "cuda" else _GraphedStep(step)


class _GraphedStep:
    def __init__(self, step: InnerStep) -> None:
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._arguments: tuple[Tensor, ...] = ()
        self._losses = torch.empty(0)

    def __call__(self, *arguments: Tensor) -> Tensor:
        if self._graph is None:
            self._capture(arguments)
        for buffer, argument in zip(self._arguments, arguments, strict=True):
            buffer.copy_(argument, non_blocking=True)
        assert self._graph is not None  # noqa: S101 -- taken above
        self._graph.replay()
        for argument, buffer in zip(arguments[:2], self._arguments, strict=False):
            argument.copy_(buffer, non_blocking=True)
        return self._losses.clone()

    def _capture(self, arguments: tuple[Tensor, ...]) -> None:
        """Warm up on a stream of its own, as capturing wants, then take the graph."""
        self._arguments = tuple(argument.clone() for argument in arguments)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types for it
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._step(*self._arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._losses = self._step(*self._arguments)
        self._graph = graph
