"""Decoded images kept between runs, so that a data set is decoded once.

One safetensors file per key under ``$XDG_CACHE_HOME/kshot`` (or ``~/.cache/kshot``), which is made
private: compiled inner steps are kept there too. A file that is damaged, or cannot be read or
written, costs a decoding and is never an error.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

__all__ = ["cache_folder", "cached_images"]


def cache_folder() -> Path:
    """Choose the folder by ``XDG_CACHE_HOME`` as its specification says (absolute paths only)."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "kshot"


def cached_images(key: str, decode: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Return the uint8 images kept under ``key``, or decode and keep them."""
    path = cache_folder() / f"images-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    images = _read(path)
    if images is None:
        images = decode()
        _write(path, images)
    return images


def _read(path: Path) -> torch.Tensor | None:
    try:
        with safe_open(path, framework="pt") as opened:
            images: torch.Tensor = opened.get_tensor("images")
            digest = (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return images if digest == _digest(images) else None


def _write(path: Path, images: torch.Tensor) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        try:
            save_file({"images": images}, temporary, metadata={"sha256": _digest(images)})
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, SafetensorError):
        return


def _digest(images: torch.Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()
