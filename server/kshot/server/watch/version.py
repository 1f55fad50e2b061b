"""The version of kshot that runs."""

from __future__ import annotations

from importlib import metadata


def server_version() -> str:
    """Return the installed version, `unknown` when run from sources that are not installed."""
    try:
        return metadata.version("kshot")
    except metadata.PackageNotFoundError:
        return "unknown"
