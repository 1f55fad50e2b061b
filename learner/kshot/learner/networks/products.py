"""Matrix products by the library that computes them fastest on a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """Multiply ``(T, rows, k)`` by the transposes of ``(T, columns, k)``: ``(T, rows, columns)``.

    torch multiplies matrices on a CPU by MKL, which reaches half of oneDNN's speed on processors
    that are not Intel's, and no more than it on Intel's. oneDNN takes transposed views as they are.
    """
    if left.device.type != "cpu" or left.dtype != torch.float32 or not _onednn_there():
        return left @ right.transpose(1, 2)
    if left.shape[0] == 1:
        return _onednn_product(left.squeeze(0), right.squeeze(0)).unsqueeze(0)
    products = [_onednn_product(*pair) for pair in zip(left.unbind(), right.unbind(), strict=True)]
    return torch.stack(products)


def _onednn_there() -> bool:
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn_product(left: Tensor, right: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return product


@contextmanager
def products_compiled() -> Iterator[None]:
    """Let torch's compiler call oneDNN's product inside, with factors that change.

    By itself it does so with constant weights only, as inference has them.
    """
    if not _onednn_there():
        yield
        return
    import torch._inductor.graph  # registers the lowerings that are exchanged here
    from torch._inductor import ir, lowering, mkldnn_ir

    class Product(mkldnn_ir.LinearUnary):
        """The call, with factors of any strides."""

        @classmethod
        def of(cls, left: Any, right: Any) -> Any:  # noqa: ANN401 -- the compiler's own objects
            left, right = cls.realize_input(left), cls.realize_input(right)
            size = [left.get_size()[0], right.get_size()[0]]
            layout = ir.FixedLayout(left.get_device(), left.get_dtype(), size)
            return ir.TensorBox.create(cls(layout, [left, right], [None, "none", [-1], ""]))

    operation = torch.ops.mkldnn._linear_pointwise.default
    before = lowering.lowerings.get(operation)
    lowering.lowerings[operation] = lambda left, right, *_options: Product.of(left, right)
    try:
        yield
    finally:
        if before is None:
            del lowering.lowerings[operation]
        else:
            lowering.lowerings[operation] = before
