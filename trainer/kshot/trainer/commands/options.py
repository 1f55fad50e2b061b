"""Options that several of the trainer's commands share."""

from pathlib import Path

import click
import torch

from kshot.learner import compute_reproducibly

__all__ = ["choose_data_folder", "choose_device", "data_option", "device_option"]

data_option = click.option(
    "--data",
    "data_folder",
    type=click.Path(path_type=Path),
    envvar="KSHOT_DATA",
    metavar="DIR",
    help="Folder with the data sets' archives or their extracted folders. [env: KSHOT_DATA]",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU when there is one.",
)


def choose_data_folder(data_folder: Path | None) -> Path:
    """Return the folder that was named; raises UsageError when none was, or there is none."""
    if data_folder is None:
        raise click.UsageError(
            "no data folder is named, wanted --data DIR or KSHOT_DATA: a folder with the data "
            "sets' archives or folders (`kshot download omniglot --data DIR` makes one with "
            "Omniglot)"
        )
    if not data_folder.is_dir():
        raise click.UsageError(
            f"data folder is {data_folder}, which does not exist, wanted (by --data or KSHOT_DATA) "
            "the folder that holds the data sets"
        )
    return data_folder


def choose_device(name: str) -> torch.device:
    """Choose the device, reproducible, with one CPU thread: a second one slows small networks down.

    Raises UsageError when a GPU is asked for and torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("device is cuda, but torch sees no GPU: wanted cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    compute_reproducibly()
    return torch.device(name)
