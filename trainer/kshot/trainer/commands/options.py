"""Options that several of the trainer's commands share, and what their values choose."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
import torch

from kshot.bundle import Bundle, BundleError, load_bundle, locate_bundle
from kshot.learner import compute_reproducibly

# Beyond what anybody waits for, and within what memory holds.
MAX_STEPS, MAX_TASKS = 100_000, 1_000_000
# The help of an option that the bundle has a default for.
BUNDLES = "[default: the bundle's]"
DIRECTORY = click.Path(path_type=Path, file_okay=False)

DATA: dict[str, Any] = {
    "type": click.Path(path_type=Path),
    "envvar": "KSHOT_DATA",
    "metavar": "DIR",
    "help": "Folder with the data sets' archives or their extracted folders. [env: KSHOT_DATA]",
}
DEVICE: dict[str, Any] = {
    "type": click.Choice(["auto", "cpu", "cuda"]),
    "default": "auto",
    "show_default": True,
    "help": "Where to compute; auto takes a GPU when there is one.",
}
COMPILED: dict[str, Any] = {
    "default": None,
    "help": "Compile the inner step.  [default: on a CPU, where that works and pays]",
}
data_option = click.option("--data", "data_folder", **DATA)
device_option = click.option("--device", **DEVICE)


def find_bundle(name: str) -> Bundle:
    """Open a folder or a built-in bundle; raises `BundleError`, `UsageError` for neither."""
    try:
        folder = locate_bundle(name)
    except BundleError as error:
        raise click.UsageError(str(error)) from error
    return load_bundle(folder)


def open_bundle(request: Any) -> Bundle:  # noqa: ANN401 -- any request
    """Open a request's bundle; raises `UsageError` also for a choice that it does not allow."""
    bundle = find_bundle(request.bundle_name)
    manifest = bundle.manifest
    for name, allowed in (
        ("batch_norm_mode", manifest.batch_norm.allowed),
        ("preconditioner", manifest.inner_loop.preconditioners),
        ("head", manifest.head.allowed),
        ("scope", manifest.scope.allowed),
    ):
        one, several = getattr(request, name, None), getattr(request, f"{name}s", None)
        for word in (one,) if one else several or ():
            if word not in allowed:
                flag = name.replace("_", "-") + ("" if one else "s")
                raise click.UsageError(
                    f"--{flag}: {word} is not allowed by {request.bundle_name}; expected one of: "
                    f"{', '.join(allowed)}"
                )
    return bundle


def check_writable(flag: str, folder: Path) -> None:
    """Make a folder and try to write to it; raises `UsageError` when that fails.

    Folders that this made and that are still empty when the command ends are removed.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    click.get_current_context().call_on_close(lambda: _remove_empty(made))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.UsageError(f"{flag}: cannot write to {folder}: {error.strerror}") from None


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, up to one that holds something."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def holds_files(folder: Path) -> bool:
    """Tell whether a folder exists and holds more than empty folders, as a killed run leaves."""
    return any(not found.is_dir() for found in folder.rglob("*"))


def choose_data_folder(data_folder: Path | None) -> Path:
    """Return the data folder; raises `UsageError` when none is named or it does not exist."""
    if data_folder is None:
        raise click.UsageError(
            "no data folder is named: give --data DIR or set KSHOT_DATA to a folder with the data "
            "sets' archives or folders (`kshot download omniglot --data DIR` makes one with "
            "Omniglot)"
        )
    if not data_folder.is_dir():
        raise click.UsageError(
            f"data folder {data_folder} does not exist; expected (by --data or KSHOT_DATA) the "
            "folder that holds the data sets"
        )
    return data_folder


def choose_device(name: str) -> torch.device:
    """Choose the device, with reproducible kernels and one CPU thread.

    A second thread slows small networks down. Raises `UsageError` when a GPU is asked for and
    torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device: torch sees no GPU; expected cpu or auto, got cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    compute_reproducibly()
    return torch.device(name)
