"""The data sets that recipes and bundles can name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kshot.bundle import InputSpec, Provenance
from kshot.trainer.datasets import omniglot
from kshot.trainer.datasets.cifar_fs import read_cifar_fs, read_fc100
from kshot.trainer.datasets.class_folders import read_class_folders
from kshot.trainer.datasets.dataset import ImageDataset, with_rotations
from kshot.trainer.datasets.decoding import Progress
from kshot.trainer.datasets.digits import read_digits
from kshot.trainer.datasets.mini_imagenet import read_mini_imagenet
from kshot.trainer.datasets.omniglot import read_omniglot
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

__all__ = ["DATASETS", "data_of", "read_dataset"]


class Reader(Protocol):
    """Read one part of a data set, in the form of a network's input; rotates no training class."""

    def __call__(
        self,
        data: Data,
        data_folder: Path,
        part: str,
        *,
        input_spec: InputSpec,
        progress: Progress | None,
    ) -> ImageDataset: ...


DATASETS: Mapping[str, Reader] = {
    "omniglot": read_omniglot,
    "mini-imagenet": read_mini_imagenet,
    "cifar-fs": read_cifar_fs,
    "fc100": read_fc100,
    "digits": read_digits,
    "folder": read_class_folders,
}


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
    if data.folder is not None and data.dataset != "folder":
        raise DataError(
            f"data.folder is {data.folder!r} beside the data set {data.dataset}, wanted it beside "
            "the data set folder alone"
        )
    read = DATASETS[data.dataset]
    dataset = read(data, data_folder, part, input_spec=input_spec, progress=progress)
    return with_rotations(dataset) if data.rotations and part == "train" else dataset


def data_of(provenance: Provenance) -> Data:
    """Return the data that a bundle was trained on, without rotations.

    Bundles of early builds name them by the split's digest alone; raises DataError when that is of
    no split of Omniglot.
    """
    if provenance.dataset is not None and provenance.split is not None:
        return Data(provenance.dataset, provenance.split, rotations=False, folder=provenance.folder)
    for split, digest in omniglot.SPLIT_DIGESTS.items():
        if digest == provenance.split_digest:
            return Data("omniglot", split, rotations=False)
    raise DataError(
        f"the bundle was trained on a split with digest {provenance.split_digest}, which is none "
        f"of Omniglot's: {', '.join(omniglot.SPLIT_DIGESTS)}"
    )
