"""The versions of the libraries that make an adapted model, in the front and in the engine."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from kshot.server.engine_link.client import EngineFacts

_FRONT = ("kshot", "numpy", "onnxruntime")


def library_versions(facts: EngineFacts | None) -> dict[str, str]:
    """Return versions by name; that of torch is the engine's."""
    torch = {} if facts is None else {"torch": facts.torch_version}
    return _of_front() | torch


@cache
def _of_front() -> dict[str, str]:
    versions = {}
    for name in _FRONT:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout, or built under another name
            continue
    return versions
