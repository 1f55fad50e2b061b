"""Decoded data sets kept between runs, so that each is decoded once.

There is one safetensors file per key under `$XDG_CACHE_HOME/kshot` (or `~/.cache/kshot`). The
folder is private, because compiled inner steps are kept there too. A file that is damaged, or
cannot be read or written, costs a decoding and is never an error.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kshot.bundle import cache_folder, replacing
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset


def cached_dataset(key: str, make: Callable[[], ImageDataset]) -> ImageDataset:
    """Return the data set kept under `key`, or make and keep it.

    The images of a kept data set are pages of its file: they take memory when they are touched,
    and the system may drop them.
    """
    path = cache_folder() / f"images-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    dataset = _read(path)
    if dataset is None:
        dataset = make()
        _write(path, dataset)
    return dataset


def _read(path: Path) -> ImageDataset | None:
    # A damaged file may hold anything: an error of these calls means that it is damaged.
    with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
        with safe_open(path, framework="pt") as opened:
            images: torch.Tensor = opened.get_tensor("images")
            class_offsets: torch.Tensor = opened.get_tensor("class_offsets")
            metadata: Mapping[str, str] = opened.metadata() or {}
        names, split_digest = tuple(json.loads(metadata["class_names"])), metadata["split_digest"]
        dataset = make_dataset(metadata["name"], images, class_offsets, names, split_digest)
        return dataset if metadata["sha256"] == _checksum(dataset) else None
    return None


def _write(path: Path, dataset: ImageDataset) -> None:
    metadata = {
        "name": dataset.name,
        "class_names": json.dumps(dataset.class_names),
        "split_digest": dataset.split_digest,
        "sha256": _checksum(dataset),
    }
    tensors = {"images": dataset.images, "class_offsets": dataset.class_offsets}
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as file:
            save_file(tensors, file.name, metadata=metadata)


def _checksum(dataset: ImageDataset) -> str:
    """Return the SHA-256 over all that is kept; the digest covers images, offsets and classes."""
    kept = (dataset.digest, dataset.name, dataset.split_digest)
    return hashlib.sha256("\0".join(kept).encode()).hexdigest()
