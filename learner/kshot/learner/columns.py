"""A convolution as one matrix product: its patches become columns."""

import math
from typing import Any

import torch
from torch import Tensor

from kshot.learner.products import times_transposed

Padding = tuple[int, int, int, int]
"""Left, right, top, bottom."""


def convolve_columns(inputs: Tensor, weight: Tensor, stride: int, padding: Padding) -> Tensor:
    """Convolve each task's images with its own kernel, or all with one kernel.

    ``(T, n, channels, height, width)`` with ``(T or 1, filters, channels, kernel, kernel)`` gives
    ``(T, n, filters, height', width')``. Channels lie next to one another in memory: patches are
    gathered, and their gradients gathered back, a row of channels at a time.
    """
    task_count, image_count, _, height, width = inputs.shape
    filters, kernel = weight.shape[1], weight.shape[-1]
    rows = inputs.permute(0, 1, 3, 4, 2).flatten(2, 3)  # (T, n, height * width, channels)
    if weight.shape[0] == 1 < task_count:
        weight = weight.expand(task_count, -1, -1, -1, -1)
    outputs = _Convolution.apply(rows, weight, (height, width), stride, padding)
    left, right, top, bottom = padding
    height = (height + top + bottom - kernel) // stride + 1
    width = (width + left + right - kernel) // stride + 1
    shaped: Tensor = outputs.reshape(task_count, image_count, height, width, filters)
    return shaped.permute(0, 1, 4, 2, 3)


class _Convolution(torch.autograd.Function):
    """The product of columns and kernels; its gradients are two more such products."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 -- torch has no type for it
        rows: Tensor,
        weight: Tensor,
        sides: tuple[int, int],
        stride: int,
        padding: Padding,
    ) -> Tensor:
        """Map ``(T, n, height * width, channels)`` to ``(T, n, height' * width', filters)``."""
        task_count, image_count, _, channels = rows.shape
        filters, kernel = weight.shape[1], weight.shape[-1]
        ctx.geometry = sides, stride, padding, kernel
        patches = _take(rows, _patch_rows(*ctx.geometry, rows.device))  # (T, n, places, k * k, c)
        columns = patches.reshape(task_count, -1, kernel * kernel * channels)
        kernels = weight.permute(0, 1, 3, 4, 2).reshape(task_count, filters, -1)
        ctx.save_for_backward(columns, kernels)
        ctx.shapes = rows.shape, weight.shape
        products = times_transposed(columns, kernels)
        return products.reshape(task_count, image_count, -1, filters)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401 -- torch has no types for them
        """Gather the gradient of each input from the patches that it was part of."""
        columns, kernels = ctx.saved_tensors
        (task_count, image_count, _, channels), (_, filters, _, kernel, _) = ctx.shapes
        gradient = gradients[0].reshape(task_count, -1, filters)
        of_kernels = times_transposed(gradient.transpose(1, 2), columns.transpose(1, 2))
        of_weight = of_kernels.reshape(task_count, filters, kernel, kernel, channels)
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_columns = times_transposed(gradient, kernels.transpose(1, 2))
            of_patches = of_columns.reshape(task_count, image_count, -1, channels)
            of_rows = _take(of_patches, _rows_patches(*ctx.geometry, columns.device)).sum(dim=3)
        return of_rows, of_weight.permute(0, 1, 4, 2, 3), None, None, None


def _take(rows: Tensor, places: Tensor) -> Tensor:
    """Gather rows ``(T, n, R, c)`` at ``(A, B)`` places into ``(T, n, A, B, c)``; R means zeros."""
    count = rows.shape[2]
    taken = rows[:, :, places.clamp(max=count - 1)]
    return torch.where((places < count)[:, :, None], taken, 0.0)


def _patch_rows(
    sides: tuple[int, int], stride: int, padding: Padding, kernel: int, device: torch.device
) -> Tensor:
    """Say which row each element of a patch is: ``(height' * width', k * k)``, padding beyond all.

    Computed, not tabulated: a compiler makes the arithmetic a part of the gathering.
    """
    height, width = sides
    left, right, top, bottom = padding
    offsets = torch.arange(kernel, device=device)
    upper = torch.arange((height + top + bottom - kernel) // stride + 1, device=device)
    first = torch.arange((width + left + right - kernel) // stride + 1, device=device)
    y = (stride * upper[:, None] + offsets - top)[:, None, :, None]
    x = (stride * first[:, None] + offsets - left)[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    places = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return torch.where(inside, places, height * width).flatten(0, 1).flatten(1, 2)


def _rows_patches(
    sides: tuple[int, int], stride: int, padding: Padding, kernel: int, device: torch.device
) -> Tensor:
    """Say where in all patches each row is: ``(height * width, at most so many times)``."""
    height, width = sides
    left, right, top, bottom = padding
    upper = (height + top + bottom - kernel) // stride + 1
    first = (width + left + right - kernel) // stride + 1
    earlier = torch.arange(math.ceil(kernel / stride), device=device)
    y = (torch.arange(height, device=device) + top)[:, None]
    x = (torch.arange(width, device=device) + left)[:, None]
    i, j = y // stride - earlier, x // stride - earlier  # the patches that may hold a row
    a, b = y - stride * i, x - stride * j  # and its place in them
    down = ((a < kernel) & (i >= 0) & (i < upper))[:, None, :, None]
    across = ((b < kernel) & (j >= 0) & (j < first))[None, :, None, :]
    patch = i[:, None, :, None] * first + j[None, :, None, :]
    place = a[:, None, :, None] * kernel + b[None, :, None, :]
    beyond = upper * first * kernel * kernel
    rows = torch.where(down & across, patch * kernel * kernel + place, beyond)
    return rows.flatten(0, 1).flatten(1, 2)
