"""The version of kshot, installed or run from its sources."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path


def version() -> str:
    """Return the installed version, else that of the sources beside this file, else `unknown`."""
    try:
        return metadata.version("kshot")
    except metadata.PackageNotFoundError:
        pass
    try:
        settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
        return str(settings["project"]["version"])
    except (OSError, KeyError, IndexError, tomllib.TOMLDecodeError):
        return "unknown"
