"""The images and tasks that the benchmarks work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from kshot.bench.speed.timed_tasks import (
    AdaptTask,
    generated_dataset,
    handwriting,
    has_yardstick,
    open_initialization,
)
from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.learner import Conv4, Mlp
from kshot.trainer.errors import DataError


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(builtin_bundle("omniglot"))


def test_generated_images_are_black_and_white_and_alike_within_a_class() -> None:
    dataset = generated_dataset((1, 28, 28), class_count=3, image_count=4, seed=1)

    images = dataset.images.reshape(3, 4, -1).float() / 255
    assert dataset.images.dtype == torch.uint8
    assert set(images.unique().tolist()) == {0.0, 1.0}
    within = (images[:, 0] - images[:, 1]).abs().mean()
    between = (images[0, 0] - images[1, 0]).abs().mean()
    assert float(within) < float(between)
    assert torch.equal(
        dataset.images, generated_dataset((1, 28, 28), class_count=3, image_count=4, seed=1).images
    )


def test_a_task_has_the_size_that_was_asked_for(make_task: Callable[..., AdaptTask]) -> None:
    task = make_task(way=4, shot=3, step_count=5, batch_size=7)

    assert task.support.shape == (12, 1, 13, 10)
    assert task.classes.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert task.batches.shape == (5, 7)


def test_digits_come_in_the_form_of_the_bundles_handwriting(
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


def test_the_plain_loop_is_no_yardstick_for_other_networks() -> None:
    assert has_yardstick(Conv4((1, 28, 28)))
    assert not has_yardstick(Conv4((1, 28, 28), downsampling="max_pool"))
    assert not has_yardstick(Mlp((1, 28, 28)))


def test_a_bundle_whose_weights_are_of_another_way_is_refused(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, training=replace(bundle.manifest.training, way=7))

    with pytest.raises(click.ClickException, match=r"cannot be used: the head has 5 rows"):
        open_initialization(replace(bundle, manifest=manifest), torch.device("cpu"))
