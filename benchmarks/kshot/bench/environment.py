"""The machine and the versions of a measurement."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from kshot.command.version import version
from kshot.engine.device import choose_device

_LIBRARIES = {
    "torch": ("torch",),
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "grpcio": ("grpcio",),
    "jax": ("jax",),
}

# A new result does not change the code that runs the next benchmark.
_RESULTS = (":!/benchmarks/results", ":!/studies/results")


def environment() -> dict[str, object]:
    """Describe machine, versions and commit; a missing one is None.

    `threads` is torch's current count; `commit` ends in `-dirty` when files other than results have
    changed since. Call this before a long measurement: the checkout may change while it runs.
    """
    return {
        "cpu": choose_device("cpu").name,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: _installed(names) for name, names in _LIBRARIES.items()},
        "kshot": version(),
        "commit": _commit(Path(__file__)),
    }


def _installed(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _commit(file: Path) -> str | None:
    """Return the commit of the checkout that tracks a file, or None.

    A checkout does not track an installation that lies inside it.
    """
    git = shutil.which("git")
    if git is None:
        return None
    tracked = _git(git, file.parent, "ls-files", "--error-unmatch", file.name)
    if tracked is None:
        return None
    head = _git(git, file.parent, "rev-parse", "HEAD")
    changed = _git(git, file.parent, "diff", "--name-only", "HEAD", "--", ":/", *_RESULTS)
    return f"{head}-dirty" if head and changed else head


def _git(git: str, folder: Path, *arguments: str) -> str | None:
    done = subprocess.run(  # noqa: S603 -- git with our own arguments
        [git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
