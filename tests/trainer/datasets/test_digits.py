import sys
from pathlib import Path

import numpy as np
import pytest

from kshot.bundle import InputSpec
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.recipe.recipe import Data

OMNIGLOT_INPUT = load_image_recipe("omniglot-5way").input


def read(part: str = "test", split: str = "all", spec: InputSpec = OMNIGLOT_INPUT) -> ImageDataset:
    return read_dataset(Data("digits", split, rotations=False), Path(), part, input_spec=spec)


def test_digits_are_dark_ink_on_paper_in_ten_classes() -> None:
    dataset = read()

    assert dataset.images.shape == (1797, 1, 28, 28)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.class_offsets.diff().tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    assert set(np.unique(dataset.images.numpy())) == {0, 255}
    assert 0.05 < float((dataset.images == 0).float().mean()) < 0.3


def test_other_parts_and_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"part of digits: expected one of test .*, got 'train'"):
        read("train")
    with pytest.raises(DataError, match="split of digits: expected one of all, got 'ravi'"):
        read(split="ravi")


def test_without_scikit_learn_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    with pytest.raises(DataError, match=r"not installed: pip install scikit-learn$"):
        read()
