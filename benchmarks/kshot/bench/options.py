"""Options that several benchmarks share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click
import torch

from kshot.bundle import Bundle, BundleError, load_bundle, locate_bundle
from kshot.trainer.commands.options import choose_device as choose_reproducible_device

__all__ = [
    "bundle_option",
    "choose_device",
    "choose_jax",
    "compile_option",
    "device_option",
    "jax_option",
    "json_option",
    "open_bundle",
    "plot_option",
    "rounds_option",
    "threads_option",
]

bundle_option = click.option(
    "--bundle",
    "bundle_name",
    default="omniglot",
    show_default=True,
    metavar="PATH",
    help="Folder of a bundle, or the name of a built-in one.",
)
rounds_option = click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Samples of each contender; medians of fewer than 20 say little.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU when there is one.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of the CPU that each contender may use.",
)
compile_option = click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Compile kshot's inner step.  [default: where that works]",
)
jax_option = click.option(
    "--jax/--no-jax",
    default=None,
    help="Let JAX join in.  [default: where it is installed, on a CPU]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
plot_option = click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw a plot into a file.",
)


def open_bundle(name: str) -> Bundle:
    """Open a folder's bundle or a built-in one.

    Raises ``UsageError`` when it is neither, ``BundleError`` when the folder holds no sound bundle.
    """
    try:
        folder = locate_bundle(name)
    except BundleError as error:
        raise click.UsageError(str(error)) from error
    return load_bundle(folder)


def choose_device(name: str, threads: int) -> torch.device:
    """Choose the device, reproducible, with so many CPU threads.

    Raises ``UsageError`` when a GPU is asked for and torch sees none.
    """
    device = choose_reproducible_device(name)
    torch.set_num_threads(threads)
    return device


def choose_jax(wanted: bool | None, device: torch.device, threads: int) -> bool:
    """Tell whether JAX joins in, by default where it can, and give it so many threads.

    Raises ``UsageError`` when it is asked for and cannot join in.
    """
    available = find_spec("jax") is not None
    if wanted and not available:
        raise click.UsageError("--jax needs 'jax', which is not installed: pip install jax")
    if wanted and device.type != "cpu":
        raise click.UsageError(f"--jax is measured on a CPU only, the device is {device.type}")
    joins = available and device.type == "cpu" if wanted is None else wanted
    if joins:
        from kshot.bench.speed.jax_loop import limit_threads

        limit_threads(threads)
    return joins
