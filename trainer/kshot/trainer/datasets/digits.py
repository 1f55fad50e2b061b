"""scikit-learn's handwritten digits, in Omniglot's form: for evaluation on another domain."""

import numpy as np
import torch
from PIL import Image

from kshot.bundle import pixels
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset, offsets_of
from kshot.trainer.datasets.reader import PartRequest
from kshot.trainer.datasets.splits import check_split_name, classes_of, split_digest
from kshot.trainer.errors import DataError

SPLIT = {"test": tuple("0123456789")}
SIZE, MARGIN = 28, 4
INK, PAPER, INK_BELOW = 0, 255, 160


def read_digits(request: PartRequest) -> ImageDataset:
    """Return the 1,797 digits as ten test classes; there is no other part, and no file.

    The originals are 8x8, blurred, ink bright on dark. They are inverted, enlarged, made ink or
    paper pixel by pixel, given a margin, and prepared as any image is. Raises `DataError` for an
    unknown split or part, and when scikit-learn is not installed.
    """
    check_split_name(request.data.split, ("all",), "digits")
    classes = classes_of(SPLIT, request.part, "digits")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(
            "data set digits needs scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    digits = load_digits()
    order = np.argsort(digits.target, kind="stable")
    images = np.full((len(order), SIZE, SIZE), PAPER, np.uint8)
    inside = slice(MARGIN, SIZE - MARGIN)
    for image, small in zip(images, digits.images[order], strict=True):
        dark_on_bright = np.rint(255 - small * (255 / 16)).astype(np.uint8)
        enlarged = Image.fromarray(dark_on_bright).resize(
            (SIZE - 2 * MARGIN, SIZE - 2 * MARGIN), Image.Resampling.BICUBIC
        )
        image[inside, inside] = np.where(np.asarray(enlarged) < INK_BELOW, INK, PAPER)
    return make_dataset(
        "scikit-learn's digits",
        torch.from_numpy(pixels(images, request.input_spec)),
        offsets_of(np.bincount(digits.target)),
        tuple(classes),
        split_digest(SPLIT),
    )
