"""The data that a bundle is evaluated on: those that it was trained on, split in the same way."""

from kshot.bundle import Bundle
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError


def check_split(dataset: ImageDataset, bundle: Bundle, remedy: str = "") -> None:
    """Raise `DataError` when the classes are not split as they were for the training.

    An added class or another seed moves other classes: a test class may then have been trained on.
    `remedy` ends the message.
    """
    wanted = bundle.manifest.provenance.split_digest
    if dataset.split_digest != wanted:
        raise DataError(
            f"{bundle.path} was trained on another split of {dataset.name} and may have been "
            f"trained on these classes: expected the split with digest {wanted}, got "
            f"{dataset.split_digest}{remedy}"
        )
