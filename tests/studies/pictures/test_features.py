from pathlib import Path

import numpy as np
import pytest

from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.trainer.errors import DataError
from studies.pictures.features import FeatureEncoder
from studies.pictures.sets import PictureSet


def test_a_set_is_encoded_once(
    means_bundle: Bundle, pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = FeatureEncoder.of_bundle(means_bundle)

    first = encoder.of_set(pictures)
    monkeypatch.setattr(FeatureEncoder, "encode", None)
    again = FeatureEncoder.of_bundle(means_bundle).of_set(pictures)

    assert (first.shape, first.dtype) == ((12, 12), np.float32)
    assert np.array_equal(first, again)
    assert len(list((tmp_path / "kshot").glob("features-*.npy"))) == 1


def test_a_bundle_without_an_encoder_is_refused() -> None:
    with pytest.raises(DataError, match="drawings: expected a bundle with an encoder"):
        FeatureEncoder.of_bundle(load_bundle(builtin_bundle("drawings")))
