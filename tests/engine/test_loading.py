"""Bundles that come and go in an engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kshot.bundle import Bundle, BundleError
from kshot.engine.device import choose_device
from kshot.engine.loading import Models
from kshot.engine.programs import Programs
from kshot.engine.scheduler import Scheduler
from kshot.engine.tuning import Tuning
from kshot.engine.warm_up import first_plan


@pytest.fixture
def models(tail_bundle: Bundle) -> Iterator[Models]:
    """No model yet; of one with a tail the speed is known."""
    device = choose_device("cpu")
    programs = Programs(None, device.device)
    scheduler = Scheduler(programs, device, first_plan(device))
    tuning = Tuning(programs, device, scheduler)
    yield Models(device, scheduler, tuning, {tail_bundle.digest: 0.5})
    scheduler.close()


def test_a_bundle_is_loaded_once_and_forgotten(models: Models, perceptron_bundle: Bundle) -> None:
    digest = perceptron_bundle.digest
    assert models.find(digest) is None

    loaded = models.load(perceptron_bundle.path, digest)
    assert models.load(perceptron_bundle.path, digest) is loaded is models.find(digest)
    assert list(models) == [loaded]
    assert loaded in models._scheduler._plans
    models.unload(digest)
    models.unload(digest)

    assert models.find(digest) is None
    assert models._scheduler._plans == {}
    assert not models._tuning._steps
    assert models.load(perceptron_bundle.path) is not loaded


def test_another_content_is_refused(models: Models, perceptron_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="expected digest 0000"):
        models.load(perceptron_bundle.path, "0" * 64)

    assert list(models) == []


def test_what_is_known_of_a_tail_is_not_measured(
    models: Models, tail_bundle: Bundle, perceptron_bundle: Bundle
) -> None:
    assert models.tail_seconds(models.load(tail_bundle.path)) == 0.5
    assert models.tail_seconds(models.load(perceptron_bundle.path)) == 0.0
