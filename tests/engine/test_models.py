"""Models of bundles, on the engine's device."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.bundle import Bundle, BundleError, TailFiles, write_bundle
from kshot.engine.models import LoadedModel, load_model


def test_a_tail_is_loaded_where_a_bundle_has_one(model: LoadedModel, tailed: LoadedModel) -> None:
    assert model.tail is None
    assert tailed.tail is not None
    tailed.tail.network.check(tailed.tail.parameters)


def test_a_tail_of_other_layers_is_refused(tail_bundle: Bundle, tmp_path: Path) -> None:
    files, manifest = tail_bundle.read_tail(), tail_bundle.manifest
    assert files is not None
    wide = {**files.parameters, "tail.last.bias": np.zeros(9, np.float32)}
    unread = b"not read by the engine"
    bundle = write_bundle(
        tmp_path,
        replace(manifest, version=2),
        tail_bundle.read_weights(),
        dict.fromkeys(manifest.template_modes, unread),
        "# other\n",
        encoder=unread,
        tail=TailFiles(wide, unread),
    )

    with pytest.raises(BundleError, match=r"tail.last.bias: expected \(8,\), got \(9,\)"):
        load_model(bundle, torch.device("cpu"))
