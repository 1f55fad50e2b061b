"""All that uses torch beyond its public interface: the compiler, its packages, oneDNN's product.

A new version of torch may change any of it: `pytest -m compiled` tells. No other module imports
names of torch that begin with an underscore, or traces with `make_fx`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor


def has_onednn_product() -> bool:
    """Tell whether this build of torch multiplies matrices by oneDNN."""
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply `(rows, k)` by the transpose of `(columns, k)`; both may be transposed views."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return product


def write_package(
    program: Callable[..., Any],
    arguments: tuple[Tensor, ...],
    package: Path,
    options: Mapping[str, object] | None = None,
) -> None:
    """Compile a program for arguments of these shapes into a package of torch's, `*.pt2`.

    Further `options` are those of the compiler. Its intermediate files go to the package's folder
    and are removed. Raises whatever the compiler raises.
    """
    import torch._inductor
    from torch._inductor.utils import fresh_cache
    from torch.fx.experimental.proxy_tensor import make_fx

    # The gradient becomes a part of the graph: the exporter does not know autograd.
    graph = make_fx(program)(*arguments)
    exported = torch.export.export(_Program(graph), arguments)
    # Headers that are compiled first pay from the fifth step on, and take 280 MB of disk.
    patch = torch._inductor.config.patch(
        {"aot_inductor.precompile_headers": False, **(options or {})}
    )
    with fresh_cache(dir=str(package.parent)), _products_compiled(), patch:
        torch._inductor.aoti_compile_and_package(exported, package_path=str(package))


def load_package(package: Path) -> Callable[..., Any]:
    """Load what `write_package` wrote; raises whatever the loader raises."""
    from torch._C._aoti import AOTIModelPackageLoader
    from torch.export.pt2_archive._package import AOTICompiledModel

    # Not by `aoti_load_package`: that compiles probes of the processor first, for ten seconds and
    # into a folder of torch's that all users share. Single-threaded: one thread steps, and a CUDA
    # graph can be taken of it. One runner, on the current device.
    return cast(
        Callable[..., Any],
        AOTICompiledModel(AOTIModelPackageLoader(str(package), "model", True, 1, -1)),
    )


class _Program(torch.nn.Module):
    """A traced program as the module that the exporter expects."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *arguments: Tensor) -> Any:  # noqa: ANN401 -- what the program returns
        return self.graph(*arguments)


@contextmanager
def _products_compiled() -> Iterator[None]:
    """Let torch's compiler call oneDNN's product inside, with factors that change.

    By itself it does so with constant weights only, as inference has them.
    """
    if not has_onednn_product():
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
