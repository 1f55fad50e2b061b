"""Options that several benchmarks share."""

from __future__ import annotations

from pathlib import Path

import click

from kshot.bundle import Bundle, BundleError, builtin_bundle, load_bundle

__all__ = [
    "bundle_option",
    "device_option",
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
    folder = Path(name)
    if folder.exists() or len(folder.parts) > 1:
        return load_bundle(folder)
    try:
        return load_bundle(builtin_bundle(name))
    except BundleError as error:
        raise click.UsageError(f"there is no folder {name}, and {error}") from error
