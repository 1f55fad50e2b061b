"""The data sets that recipes and bundles can name."""

from collections.abc import Callable, Mapping
from pathlib import Path

from kshot.bundle import InputSpec, Provenance
from kshot.trainer.datasets import omniglot
from kshot.trainer.datasets.cifar_fs import read_cifar
from kshot.trainer.datasets.class_folders import read_class_folders
from kshot.trainer.datasets.dataset import ImageDataset, with_rotations
from kshot.trainer.datasets.digits import read_digits
from kshot.trainer.datasets.mini_imagenet import read_mini_imagenet
from kshot.trainer.datasets.reader import PartRequest, Progress
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data
from kshot.trainer.recipe.sine import SINE

# A reader returns one part of a data set, without the rotations that a recipe asks for.
DATASETS: Mapping[str, Callable[[PartRequest], ImageDataset]] = {
    "omniglot": omniglot.read_omniglot,
    "mini-imagenet": read_mini_imagenet,
    "cifar-fs": read_cifar,
    "fc100": read_cifar,
    "digits": read_digits,
    "folder": read_class_folders,
}
# Data sets that a library brings, or that are generated.
WITHOUT_FOLDER = frozenset({"digits", SINE})


def read_dataset(
    data: Data,
    data_folder: Path,
    part: str,
    *,
    input_spec: InputSpec,
    progress: Progress | None = None,
) -> ImageDataset:
    """Read a part (`train`, `val` or `test`) of a data set; raises `DataError`.

    With `data.rotations` each training class makes four classes; other classes stay single.
    `progress` is called with the images decoded so far and their total, unless they come from the
    cache.
    """
    if data.dataset not in DATASETS:
        raise DataError(f"data set: expected one of {', '.join(DATASETS)}, got {data.dataset!r}")
    if data.folder is not None and data.dataset != "folder":
        raise DataError(
            f"data.folder: only data set folder has one, got {data.folder!r} with {data.dataset}"
        )
    request = PartRequest(data, data_folder, part, input_spec, progress)
    dataset = DATASETS[data.dataset](request)
    return with_rotations(dataset) if data.rotations and part == "train" else dataset


def data_of(provenance: Provenance) -> Data:
    """Return the data that a bundle was trained on, without rotations.

    Bundles of early builds have only the digest of their split; raises `DataError` unless that is
    the digest of a split of Omniglot, and for bundles that were never trained.
    """
    if not provenance.meta_iterations and provenance.dataset is None:
        raise DataError("the bundle was built, not trained: it has no data of its own")
    if provenance.dataset is not None and provenance.split is not None:
        return Data(provenance.dataset, provenance.split, rotations=False, folder=provenance.folder)
    for split, digest in omniglot.SPLIT_DIGESTS.items():
        if digest == provenance.split_digest:
            return Data("omniglot", split, rotations=False)
    raise DataError(
        f"unknown data: the bundle's split has digest {provenance.split_digest}, expected that of "
        f"one of Omniglot's splits: {', '.join(omniglot.SPLIT_DIGESTS)}"
    )
