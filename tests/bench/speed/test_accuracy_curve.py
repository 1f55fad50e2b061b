"""The handwriting on which `kshot bench adapt --plot` measures accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kshot.bench.speed.accuracy_curve import handwriting
from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.trainer.errors import DataError


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(builtin_bundle("omniglot"))


def test_digits_look_like_the_bundles_handwriting(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = handwriting(bundle, None)

    assert dataset.images.shape == (1797, 1, 28, 28)
    assert dataset.class_names == tuple("0123456789")
    assert set(np.unique(dataset.images.numpy())) == {0, 255}
    ink = (dataset.images == 0).float()
    assert float(ink[:, :, :4].mean()) == 0  # the margin is paper
    assert 0.05 < float(ink.mean()) < 0.3
    zeros, ones = (
        ink[dataset.class_offsets[digit] : dataset.class_offsets[digit + 1], 0].mean(dim=0)
        for digit in (0, 1)
    )
    assert float(zeros[13:15, 13:15].mean()) < float(ones[13:15, 13:15].mean())
    assert "scikit-learn's digits" in capsys.readouterr().err


def test_a_folder_without_the_data_set_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images_background"):
        handwriting(bundle, tmp_path)
