"""The data sets that recipes and bundles can name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kshot.bundle import InputSpec
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.image_files import Progress
from kshot.trainer.omniglot import SPLIT_DIGESTS, read_omniglot

__all__ = ["DATASETS", "find_split", "read_dataset", "split_digest"]


class Reader(Protocol):
    """Read one part of a data set, prepared for a network's input."""

    def __call__(
        self,
        data_folder: Path,
        split: str,
        *,
        split_name: str,
        input_spec: InputSpec,
        rotations: bool,
        progress: Progress | None,
    ) -> ImageDataset: ...


@dataclass(frozen=True)
class Source:
    """A data set's reader, and the SHA-256 of each of its splits by name."""

    read: Reader
    split_digests: Mapping[str, str]


DATASETS: Mapping[str, Source] = {"omniglot": Source(read_omniglot, SPLIT_DIGESTS)}


def read_dataset(
    name: str,
    data_folder: Path,
    split: str,
    *,
    split_name: str,
    input_spec: InputSpec,
    rotations: bool = False,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part (as ``train`` or ``test``) of a named data set; raises DataError."""
    read = _source(name).read
    return read(
        data_folder,
        split,
        split_name=split_name,
        input_spec=input_spec,
        rotations=rotations,
        progress=progress,
    )


def split_digest(name: str, split_name: str) -> str:
    """Return the SHA-256 that names a split's classes; raises DataError for an unknown one."""
    digests = _source(name).split_digests
    if split_name not in digests:
        raise DataError(f"split of {name} is {split_name!r}, wanted one of: {', '.join(digests)}")
    return digests[split_name]


def find_split(digest: str) -> tuple[str, str]:
    """Return the data set and split that a digest names, as a bundle's provenance carries it.

    Raises DataError when it is no known one.
    """
    for name, source in DATASETS.items():
        for split_name, known in source.split_digests.items():
            if known == digest:
                return name, split_name
    raise DataError(
        f"the bundle was trained on a split with digest {digest}, which is none of: "
        f"{', '.join(DATASETS)}"
    )


def _source(name: str) -> Source:
    if name not in DATASETS:
        raise DataError(f"data set is {name!r}, wanted one of: {', '.join(DATASETS)}")
    return DATASETS[name]
