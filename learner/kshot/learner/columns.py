"""A convolution as one matrix product: its patches become columns."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def convolve_columns(
    inputs: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int, int]
) -> Tensor:
    """Convolve each task's images with its own kernel, or all with one kernel.

    ``(T, n, channels, height, width)`` with ``(T or 1, filters, channels, kernel, kernel)`` gives
    ``(T, n, filters, height', width')``; padding is left, right, top, bottom. Patches are taken as
    slices, one for each place of the kernel: a compiler fuses them, and gathers on the way back.
    """
    task_count, image_count = inputs.shape[:2]
    kernel_count, filters, channels, kernel, _ = weight.shape
    padded = functional.pad(inputs, padding)
    height, width = (math.ceil((side - kernel + 1) / stride) for side in padded.shape[3:])
    slices = [
        padded[..., top : top + stride * height : stride, left : left + stride * width : stride]
        for top in range(kernel)
        for left in range(kernel)
    ]
    patches = torch.stack(slices, dim=-1).permute(0, 1, 3, 4, 2, 5)  # (T, n, h, w, c, k * k)
    columns = patches.reshape(task_count, -1, channels * kernel * kernel)
    kernels = weight.reshape(kernel_count, filters, -1).expand(task_count, -1, -1)
    outputs = columns @ kernels.transpose(1, 2)
    return outputs.reshape(task_count, image_count, height, width, filters).permute(0, 1, 4, 2, 3)
