"""Matrix products by the library that computes them fastest on a device."""

import torch
from torch import Tensor

from kshot.learner.torch_internals import has_onednn_product, onednn_product


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """Multiply `(T, rows, k)` by the transposes of `(T, columns, k)`: `(T, rows, columns)`.

    torch multiplies matrices on a CPU by MKL, which reaches half of oneDNN's speed on processors
    that are not Intel's, and no more than it on Intel's. oneDNN takes transposed views as they are.
    """
    if left.device.type != "cpu" or left.dtype != torch.float32 or not has_onednn_product():
        return left @ right.transpose(1, 2)
    if left.shape[0] == 1:
        return onednn_product(left.squeeze(0), right.squeeze(0)).unsqueeze(0)
    products = [onednn_product(*pair) for pair in zip(left.unbind(), right.unbind(), strict=True)]
    return torch.stack(products)
