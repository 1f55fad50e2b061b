"""Matrix products by the library that computes them fastest on a device."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kshot.learner.torch_internals import has_onednn_product, onednn_product


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """Multiply `(T, rows, k)` by the transposes of `(T, columns, k)`: `(T, rows, columns)`.

    torch multiplies matrices on a CPU by MKL, which reaches half of oneDNN's speed on processors
    that are not Intel's. On Intel's both compute alike, but a call of oneDNN costs more: it copies
    a transposed left factor first. oneDNN takes other transposed views as they are.
    """
    if left.device.type != "cpu" or left.dtype != torch.float32 or not onednn_leads():
        if left.shape[0] == 1:
            return (left.squeeze(0) @ right.squeeze(0).t()).unsqueeze(0)
        return left @ right.transpose(1, 2)
    if left.shape[0] == 1:
        return onednn_product(left.squeeze(0), right.squeeze(0)).unsqueeze(0)
    products = [onednn_product(*pair) for pair in zip(left.unbind(), right.unbind(), strict=True)]
    return torch.stack(products)


@cache
def onednn_leads() -> bool:
    """Tell whether oneDNN multiplies matrices faster than torch does by itself."""
    file = Path("/proc/cpuinfo")
    intel = file.exists() and "GenuineIntel" in file.read_text()
    mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return has_onednn_product() and not (intel and mkl)
