"""The data sets that recipes and bundles can name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kshot.bundle import InputSpec, Provenance
from kshot.trainer import omniglot
from kshot.trainer.dataset import ImageDataset, with_rotations
from kshot.trainer.errors import DataError
from kshot.trainer.image_files import Progress
from kshot.trainer.omniglot import read_omniglot
from kshot.trainer.recipe import Data

__all__ = ["DATASETS", "data_of", "find_split", "read_dataset", "split_digest"]


class Reader(Protocol):
    """Read one part of a data set, prepared for a network's input; no class is rotated."""

    def __call__(
        self,
        data: Data,
        data_folder: Path,
        part: str,
        *,
        input_spec: InputSpec,
        progress: Progress | None,
    ) -> ImageDataset: ...


DATASETS: Mapping[str, Reader] = {"omniglot": read_omniglot}


def read_dataset(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part (``train``, ``val`` or ``test``) of a data set; raises DataError.

    With ``data.rotations`` each training class makes four classes, and no other does. ``progress``
    is called with the images decoded so far and their total, and not at all when they come from
    the cache.
    """
    if data.dataset not in DATASETS:
        raise DataError(f"data set is {data.dataset!r}, wanted one of: {', '.join(DATASETS)}")
    read = DATASETS[data.dataset]
    dataset = read(data, data_folder, part, input_spec=input_spec, progress=progress)
    return with_rotations(dataset) if data.rotations and part == "train" else dataset


def data_of(provenance: Provenance) -> Data:
    """Return the data that a bundle was trained on, without rotations.

    Bundles of early builds name them by the split's digest alone; raises DataError when it is no
    known one.
    """
    if provenance.dataset is None or provenance.split is None:
        return Data(*find_split(provenance.split_digest), rotations=False)
    return Data(provenance.dataset, provenance.split, rotations=False, folder=provenance.folder)


def find_split(digest: str) -> tuple[str, str]:
    """Return the data set and split that a digest names, where a bundle carries nothing else.

    Raises DataError when it is no known one.
    """
    for split_name, known in omniglot.SPLIT_DIGESTS.items():
        if known == digest:
            return "omniglot", split_name
    raise DataError(
        f"the bundle was trained on a split with digest {digest}, which is none of: "
        f"{', '.join(DATASETS)}"
    )


def split_digest(name: str, split_name: str) -> str:
    """Return the SHA-256 that names a split's classes; raises DataError for an unknown one."""
    if name != "omniglot" or split_name not in omniglot.SPLIT_DIGESTS:
        raise DataError(f"split of {name} is {split_name!r}, which is unknown")
    return omniglot.SPLIT_DIGESTS[split_name]
