"""The parts of data sets that commands read, with their progress shown."""

from pathlib import Path

from kshot.bundle import Bundle, InputSpec
from kshot.trainer.commands.options import choose_data_folder
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import WITHOUT_FOLDER, data_of, read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.recipe import Data


def read_part(
    data: Data, data_folder: Path | None, part: str, spec: InputSpec, *, silent: bool = False
) -> ImageDataset:
    """Read a part of a data set in the form of a network's input, and show the progress.

    Raises `UsageError` when a data folder is needed and none is named, and `DataError`.
    """
    folder = Path() if data.dataset in WITHOUT_FOLDER else choose_data_folder(data_folder)
    with Progress(f"reading {data.dataset}", "images") as progress:
        report = None if silent else progress.update
        return read_dataset(data, folder, part, input_spec=spec, progress=report)


def read_own_part(
    bundle: Bundle, data_folder: Path | None, part: str, remedy: str = ""
) -> ImageDataset:
    """Read a part of the data that a bundle was trained on, split as they were for the training.

    An added class or another seed moves other classes: a test class may then have been trained on.
    Raises `DataError` in that case, with `remedy` at the end, and what `read_part` raises.
    """
    manifest = bundle.manifest
    data, wanted = data_of(manifest.provenance), manifest.provenance.split_digest
    dataset = read_part(data, data_folder, part, manifest.input)
    if dataset.split_digest != wanted:
        raise DataError(
            f"{bundle.path} was trained on another split of {dataset.name} and may have been "
            f"trained on these classes: expected the split with digest {wanted}, got "
            f"{dataset.split_digest}{remedy}"
        )
    return dataset
