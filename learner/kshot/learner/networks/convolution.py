"""Convolution and pooling of the images of T tasks at once."""

import math

from torch import Tensor
from torch.nn import functional

from kshot.learner.networks.columns import convolve_columns

POOL = 2


def convolve(inputs: Tensor, weight: Tensor, stride: int, columns: bool = False) -> Tensor:
    """Convolve each task's images with its own kernel, or all with one kernel if its T is 1.

    `(T, n, channels, height, width)` with `(T or 1, filters, channels, kernel, kernel)` gives
    `(T, n, filters, ceil(height / stride), ceil(width / stride))`. As matrix products of columns,
    or else by the library: own kernels become one grouped convolution, and between layers the
    tensors keep its memory order, so no layer copies.
    """
    task_count, image_count, channels, height, width = inputs.shape
    kernel_count, filters, _, _, kernel = weight.shape
    if columns:
        padding = (*same_padding(width, kernel, stride), *same_padding(height, kernel, stride))
        return convolve_columns(inputs, weight, stride, padding)
    if kernel_count == 1:
        images = inputs.reshape(-1, channels, height, width)
        outputs = convolve_images(images, weight.squeeze(0), stride)
        return outputs.reshape(task_count, image_count, *outputs.shape[1:])
    # (n, T * channels, height, width)
    images = inputs.transpose(0, 1).reshape(image_count, task_count * channels, height, width)
    kernels = weight.reshape(task_count * filters, *weight.shape[2:])
    outputs = convolve_images(images, kernels, stride, groups=task_count)
    # (T, n, filters, height', width')
    return outputs.reshape(image_count, task_count, filters, *outputs.shape[2:]).transpose(0, 1)


def convolve_images(
    images: Tensor, kernel: Tensor, stride: int, bias: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Convolve `(n, channels, height, width)` with TensorFlow's SAME padding."""
    height, width = images.shape[2:]
    side = kernel.shape[-1]
    if stride == 1 and side % 2:  # both ends are padded alike, so the library does it
        return functional.conv2d(images, kernel, bias, padding=side // 2, groups=groups)
    padding = (*same_padding(width, side, stride), *same_padding(height, side, stride))
    padded = functional.pad(images, padding)
    return functional.conv2d(padded, kernel, bias, stride=stride, groups=groups)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding before and after an image's side.

    The outputs' side is `ceil(side / stride)`; an odd one of padding goes to the end.
    """
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def max_pool(inputs: Tensor) -> Tensor:
    """Take the maximum of each 2x2 square of `(..., height, width)`: `ceil(side / 2)` sides.

    As TensorFlow's SAME padding has it, an odd side's last places have fewer of them.
    """
    images = inputs.flatten(0, -4)  # (n, channels, height, width)
    pooled = functional.max_pool2d(images, POOL, ceil_mode=True)
    return pooled.reshape(*inputs.shape[:-2], *pooled.shape[-2:])
