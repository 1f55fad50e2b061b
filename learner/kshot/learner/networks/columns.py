"""A convolution as one matrix product: its patches become columns."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kshot.learner.networks.products import times_transposed

Padding = tuple[int, int, int, int]
"""Left, right, top, bottom."""


@dataclass(frozen=True)
class _Window:
    """How a kernel moves over an image: the sides of both, the stride and the padding."""

    height: int
    width: int
    kernel: int
    stride: int
    padding: Padding

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of the outputs."""
        left, right, top, bottom = self.padding
        return (
            (self.height + top + bottom - self.kernel) // self.stride + 1,
            (self.width + left + right - self.kernel) // self.stride + 1,
        )


def convolve_columns(inputs: Tensor, weight: Tensor, stride: int, padding: Padding) -> Tensor:
    """Convolve each task's images with its own kernel, or all with one kernel.

    `(T, n, channels, height, width)` with `(T or 1, filters, channels, kernel, kernel)` gives
    `(T, n, filters, height', width')`. Channels lie next to one another in memory: patches are
    gathered, and their gradients gathered back, a row of channels at a time.
    """
    task_count, image_count, _, height, width = inputs.shape
    filters = weight.shape[1]
    window = _Window(height, width, weight.shape[-1], stride, padding)
    rows = inputs.permute(0, 1, 3, 4, 2).flatten(2, 3)  # (T, n, height * width, channels)
    if weight.shape[0] == 1 < task_count:
        weight = weight.expand(task_count, -1, -1, -1, -1)
    outputs: Tensor = _Convolution.apply(rows, weight, window)  # type: ignore[no-untyped-call]  # torch has no types for it
    shaped = outputs.reshape(task_count, image_count, *window.places, filters)
    return shaped.permute(0, 1, 4, 2, 3)


class _Convolution(torch.autograd.Function):
    """The product of columns and kernels; its gradients are two more such products."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 -- torch has no type for it
        rows: Tensor,
        weight: Tensor,
        window: _Window,
    ) -> Tensor:
        """Map `(T, n, height * width, channels)` to `(T, n, height' * width', filters)`."""
        task_count, image_count, _, channels = rows.shape
        filters, kernel = weight.shape[1], weight.shape[-1]
        patches = _take(rows, _patch_rows(window, rows.device))  # (T, n, places, k * k, c)
        columns = patches.reshape(task_count, -1, kernel * kernel * channels)
        kernels = weight.permute(0, 1, 3, 4, 2).reshape(task_count, filters, -1)
        ctx.save_for_backward(columns, kernels)
        ctx.window, ctx.shapes = window, (rows.shape, weight.shape)
        products = times_transposed(columns, kernels)
        return products.reshape(task_count, image_count, -1, filters)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401 -- torch has no types for them
        """Gather the gradient of each input from the patches that it was part of.

        Raises `RuntimeError` when the gradients are to be differentiated again: what was saved
        here does not know what it was made from, so they would be wrong.
        """
        if torch.is_grad_enabled():
            raise RuntimeError("a convolution of columns has no second derivatives")
        columns, kernels = ctx.saved_tensors
        (task_count, image_count, _, channels), (_, filters, _, kernel, _) = ctx.shapes
        gradient = gradients[0].reshape(task_count, -1, filters)
        of_kernels = times_transposed(gradient.transpose(1, 2), columns.transpose(1, 2))
        of_weight = of_kernels.reshape(task_count, filters, kernel, kernel, channels)
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_columns = times_transposed(gradient, kernels.transpose(1, 2))
            of_patches = of_columns.reshape(task_count, image_count, -1, channels)
            of_rows = _take(of_patches, _rows_patches(ctx.window, columns.device)).sum(dim=3)
        return of_rows, of_weight.permute(0, 1, 4, 2, 3), None


def _take(rows: Tensor, places: Tensor) -> Tensor:
    """Gather rows `(T, n, R, c)` at `(A, B)` places into `(T, n, A, B, c)`; R means zeros."""
    count = rows.shape[2]
    taken = rows[:, :, places.clamp(max=count - 1)]
    return torch.where((places < count)[:, :, None], taken, 0.0)


def _patch_rows(window: _Window, device: torch.device) -> Tensor:
    """Return the row of each element of each patch `(places, k * k)`; padding is beyond all rows.

    Computed, not tabulated: a compiler merges the arithmetic into the gathering.
    """
    (down, across), (left, _, top, _) = window.places, window.padding
    offsets = torch.arange(window.kernel, device=device)
    i, j = (window.stride * torch.arange(count, device=device) for count in (down, across))
    y = (i[:, None] + offsets - top)[:, None, :, None]
    x = (j[:, None] + offsets - left)[None, :, None, :]
    inside = (y >= 0) & (y < window.height) & (x >= 0) & (x < window.width)
    rows = y.clamp(0, window.height - 1) * window.width + x.clamp(0, window.width - 1)
    return torch.where(inside, rows, window.height * window.width).flatten(0, 1).flatten(1, 2)


def _rows_patches(window: _Window, device: torch.device) -> Tensor:
    """Return the elements, of all patches, that hold each row: `(height * width, at most)`."""
    (down, across), (left, _, top, _) = window.places, window.padding
    earlier = torch.arange(math.ceil(window.kernel / window.stride), device=device)
    y = (torch.arange(window.height, device=device) + top)[:, None]
    x = (torch.arange(window.width, device=device) + left)[:, None]
    i, j = y // window.stride - earlier, x // window.stride - earlier  # patches that may hold it
    a, b = y - window.stride * i, x - window.stride * j  # and its place in them
    vertically = ((a < window.kernel) & (i >= 0) & (i < down))[:, None, :, None]
    horizontally = ((b < window.kernel) & (j >= 0) & (j < across))[None, :, None, :]
    patch = i[:, None, :, None] * across + j[None, :, None, :]
    place = a[:, None, :, None] * window.kernel + b[None, :, None, :]
    elements = window.kernel * window.kernel
    rows = torch.where(
        vertically & horizontally, patch * elements + place, down * across * elements
    )
    return rows.flatten(0, 1).flatten(1, 2)
