from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from kshot.bundle import EncoderSpec, Ink, Manifest, Polarity, PreprocessingStep
from kshot.server.request.grounds import (
    Grounds,
    SupportGrounds,
    grounds_of,
    query_ground_warnings,
    support_ground_warnings,
)

Floats = npt.NDArray[np.float32]


def drawings(count: int, ground: float) -> Floats:
    images = np.full((count, 1, 28, 28), ground, np.float32)
    images[:, :, 8:20, 12:15] = 1 - ground
    images[:, :, 0, :3] = 1 - ground  # a stroke may touch the border
    return images


def photographs(count: int) -> Floats:
    return np.random.default_rng(0).random((count, 1, 28, 28), np.float32)


def grounds(images: Floats, manifest: Manifest) -> Grounds:
    found = grounds_of(images, manifest)
    assert found is not None
    return found


def test_a_ground_is_a_border_of_one_shade(manifest: Manifest) -> None:
    images = np.concatenate([drawings(1, 1), drawings(1, 0), photographs(1), drawings(1, 0.5)])
    found = grounds(images, manifest)

    assert found.light.tolist() == [True, False, False, False]
    assert found.dark.tolist() == [False, True, False, False]


@pytest.mark.parametrize("ground", [0, 1])
def test_queries_on_the_other_ground_are_noticed(manifest: Manifest, ground: int) -> None:
    support = grounds(drawings(10, ground), manifest)
    queries = np.concatenate([drawings(3, ground), drawings(2, 1 - ground)])

    names = ("dark", "light") if ground else ("light", "dark")
    assert list(query_ground_warnings(support, grounds(queries, manifest))) == [
        f"queries: 2 of 5 have a {names[0]} ground and the support set a {names[1]} one; "
        "their answers are likely wrong: invert them"
    ]
    for others in (drawings(5, ground), photographs(5)):
        assert list(query_ground_warnings(support, grounds(others, manifest))) == []


def test_a_support_set_of_both_grounds_is_noticed(manifest: Manifest) -> None:
    mixed = grounds(np.concatenate([drawings(4, 1), drawings(1, 0)]), manifest)
    dark = grounds(drawings(5, 0), manifest)
    (warning,) = support_ground_warnings(mixed)

    assert "4 examples have a light ground and 1 a dark one" in warning
    assert list(support_ground_warnings(dark)) == list(query_ground_warnings(mixed, dark)) == []


def test_a_bundle_that_decides_the_polarity_is_left_alone(manifest: Manifest) -> None:
    def with_step(step: PreprocessingStep) -> Manifest:
        first, *rest = manifest.input.preprocessing
        steps = (first, step, *rest)
        return replace(manifest, input=replace(manifest.input, preprocessing=steps))

    images = drawings(2, 1)
    encoded = replace(manifest, encoder=EncoderSpec((8, 1, 1)))

    for other in (with_step(Ink(0.1)), with_step(Polarity("dark")), encoded):
        assert grounds_of(images, other) is None
    assert list(support_ground_warnings(None)) == list(query_ground_warnings(None, None)) == []


def test_the_support_sets_grounds_are_found_once(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SupportGrounds()
    first = known.of("am-a", drawings(2, 1), manifest)
    monkeypatch.setattr("kshot.server.request.grounds._MOST_KNOWN", 2)

    assert known.of("am-a", drawings(2, 0), manifest) is first
    for other in ("am-b", "am-c"):
        known.of(other, drawings(2, 1), manifest)
    assert known.of("am-a", drawings(2, 0), manifest) is not first
