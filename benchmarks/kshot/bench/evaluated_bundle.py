"""A bundle and the data that it is measured on: its own, of classes it was not trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.bundle.manifest import WEIGHTS_FILE
from kshot.bundle.schema import manifest_document
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import data_of, read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.bundle_data import WITHOUT_FOLDER, check_split
from kshot.trainer.recipe.recipe import Data

__all__ = ["adaptation_digest", "find_builtin", "read_data", "weights_digest"]

# What a manifest says that decides no logit.
TOLD = ("version", "provenance", "evaluation", "calibration", "files")

Report = Callable[[int, int], None]


def find_builtin(name: str) -> Bundle:
    """Open a bundle that ships with the package; raises ``BundleError`` where there is none."""
    return load_bundle(builtin_bundle(name))


def weights_digest(bundle: Bundle) -> str:
    """Return the SHA-256 (hex) of the initialization as the bundle stores it."""
    return bundle.manifest.files[WEIGHTS_FILE].sha256


def adaptation_digest(bundle: Bundle) -> str:
    """Return the SHA-256 (hex) of all that decides a task's logits: the weights and the manifest.

    A card, a table, and temperatures, by which logits are divided, may change without it.
    """
    document = manifest_document(bundle.manifest)
    deciding = {key: value for key, value in document.items() if key not in TOLD}
    content = json.dumps([weights_digest(bundle), deciding], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def read_data(
    bundle: Bundle, data_folder: Path | None, *, other: Data | None = None, report: Report
) -> ImageDataset:
    """Read the test part of the bundle's own data, or of others, in the form of its input.

    Raises ``DataError``, also where no folder is named and one is wanted, and where the bundle's
    own data are not split as they were for its training.
    """
    data = data_of(bundle.manifest.provenance) if other is None else other
    if data_folder is None and data.dataset not in WITHOUT_FOLDER:
        raise DataError(
            f"no data folder is named, wanted --data DIR or KSHOT_DATA with {data.dataset}"
        )
    dataset = read_dataset(
        data,
        data_folder or Path(),
        "test",
        input_spec=bundle.manifest.input,
        progress=report,
    )
    if other is None:
        check_split(dataset, bundle)
    return dataset
