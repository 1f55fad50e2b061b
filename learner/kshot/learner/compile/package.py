"""Compiled programs as files: torch's compiler writes them, torch's loader reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from kshot.learner.networks.products import products_compiled

SHARED_LIBRARIES = (b"libstdc++.so", b"libc++.so")


class _Program(torch.nn.Module):
    """A program as what the exporter takes."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *arguments: Tensor) -> Any:  # noqa: ANN401 -- what the program returns
        return self.graph(*arguments)


def write_package(
    program: Callable[..., Any], arguments: tuple[Tensor, ...], package: Path
) -> None:
    """Compile a program for arguments of these shapes into a file of torch's, by name ``*.pt2``.

    What the compiler writes on its way goes to the file's folder, and away. Raises whatever the
    compiler raises.
    """
    from torch._inductor.utils import fresh_cache
    from torch.fx.experimental.proxy_tensor import make_fx

    # The gradient becomes a part of the graph: the exporter does not know autograd.
    graph = make_fx(program)(*arguments)
    exported = torch.export.export(_Program(graph), arguments)
    # Headers that are compiled first pay from the fifth step on, and take 280 MB of disk.
    options = torch._inductor.config.patch({"aot_inductor.precompile_headers": False})
    with fresh_cache(dir=str(package.parent)), products_compiled(), options:
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


def check_archive(path: Path) -> None:
    """Raise ``BadZipFile`` where bytes have changed: torch's loader would run them."""
    with ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(f"{damaged} is damaged")


def check_libraries(package: Path) -> None:
    """Raise ``ValueError`` where the compiler put the C++ library into the program itself.

    Beside the one that torch has loaded it fails at the first use of a stream, or kills the process
    that loads the program.
    """
    with ZipFile(package) as archive:
        for name in archive.namelist():
            if name.endswith(".so") and not any(
                library in archive.read(name) for library in SHARED_LIBRARIES
            ):
                raise ValueError(
                    "the compiler links the C++ library into programs, wanted one in CXX without "
                    "-static-libstdc++"
                )
