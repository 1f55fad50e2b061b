"""`kshot bench encoder` on a tiny encoder; tests assert counts and never durations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kshot.__main__ import main
from kshot.bench.serve.encoder import photograph
from kshot.bundle import Bundle, decode_image


def test_every_load_is_answered(tail_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--bundle", str(tail_bundle.path), "--callers", "3", "--seconds", "0.2", "--json"]

    assert main(["bench", "encoder", "--device", "cpu", *words]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["callers"] == 3
    rates = [document[name] for name in document if name.endswith("_per_second")]
    assert len(rates) == 3
    assert min(rates) > 0
    assert document["ratios"]["to_one_model"] == pytest.approx(
        document["models_per_second"] / document["one_model_per_second"]
    )
    assert document["predict_ms"]["p50"] > 0 < document["encoder_ms"]["p50"]


def test_a_bundle_without_an_encoder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "encoder", "--bundle", "omniglot"]) == 2

    assert "--bundle: expected one with an encoder, got omniglot" in capsys.readouterr().err


def test_photographs_differ() -> None:
    first, second = (np.asarray(decode_image(photograph(seed))) for seed in (0, 1))

    assert first.shape == (240, 320, 3)
    assert (first != second).any()
    assert photograph(0) == photograph(0)
