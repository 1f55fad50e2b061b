"""The images of a revision stand in one array."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from kshot.bundle import Bundle
from kshot.server.call_context import begin_call
from kshot.server.lives.revised_task import revised_task
from kshot.server.lives.revision import Revision
from kshot.server.predict.catalog import Catalog
from kshot.server.request.images import PixelBudget
from kshot.server.request.inputs import SupportSet, TensorImages
from kshot.server.request.options import TtlLimits
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.store.kept_support import PackedImages

NOTHING = SupportSet(None, (), ())
LEVELS = np.linspace(0, 1, 256, dtype=np.float32)[None]


@pytest.fixture
def revised(
    tiny_bundle: Bundle, make_model: Callable[..., AdaptedModelRecord]
) -> Callable[..., npt.NDArray[np.float32]]:
    """Remove the first of kept images, add others, and return what the request sends."""
    (model,) = Catalog.load([tiny_bundle.path])
    record = replace(make_model(), bundle_digest=model.bundle.digest)
    begin_call("ReviseAdaptedModel")

    def revise(pixels: npt.NDArray[np.uint8], added: SupportSet) -> npt.NDArray[np.float32]:
        kept = PackedImages(pixels, LEVELS), tuple(index % 5 for index in range(len(pixels)))
        revision = Revision(record.id, (0,), (), added, {})
        rules = PixelBudget(10**6, 10**6), TtlLimits(600, 10**6)
        task = revised_task(record, kept, revision, model, rules, Violations())
        sent = task.support_set.images
        assert isinstance(sent, TensorImages)
        return np.frombuffer(sent.data, np.float32).reshape(sent.shape)

    return revise


def test_added_images_come_behind_those_that_stay(
    tiny_bundle: Bundle, revised: Callable[..., npt.NDArray[np.float32]]
) -> None:
    shape = tiny_bundle.manifest.input.shape
    pixels = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    added = np.full((1, *shape), 0.5, np.float32)
    sent = TensorImages("FP32", added.shape, added.tobytes())

    made = revised(pixels, SupportSet(sent, (0,), ("new",)))

    assert np.array_equal(made[:-1], LEVELS[0][pixels[1:]])
    assert np.array_equal(made[-1:], added)


def test_images_are_made_once(revised: Callable[..., npt.NDArray[np.float32]]) -> None:
    """Each further copy takes four times the bytes of the packed images."""
    pixels = np.zeros((20, 1, 256, 256), np.uint8)

    tracemalloc.start()
    made = revised(pixels, NOTHING)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1.5 * made.nbytes
