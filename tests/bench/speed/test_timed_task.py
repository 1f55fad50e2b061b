"""The timed task and its generated images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import click
import pytest
import torch

from kshot.bench.speed.timed_task import (
    TimedTask,
    comparable_network,
    generated_dataset,
    open_initialization,
)
from kshot.bundle import builtin_bundle, load_bundle
from kshot.learner import Conv4, Mlp, Network


def test_generated_images_are_alike_within_a_class() -> None:
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


def test_a_task_has_the_given_size(make_task: Callable[..., TimedTask]) -> None:
    task = make_task(way=4, shot=3, step_count=5, batch_size=7)

    assert task.support.shape == (12, 1, 13, 10)
    assert task.classes.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert task.batches.shape == (5, 7)


@pytest.mark.parametrize("other", [Conv4((1, 28, 28), downsampling="max_pool"), Mlp((1, 28, 28))])
def test_other_networks_cannot_be_compared(other: Network) -> None:
    network = Conv4((1, 28, 28))

    assert comparable_network(network) is network
    with pytest.raises(click.ClickException, match="expected conv4 with strides"):
        comparable_network(other)


def test_weights_of_another_way_are_refused() -> None:
    bundle = load_bundle(builtin_bundle("omniglot"))
    manifest = replace(bundle.manifest, training=replace(bundle.manifest.training, way=7))

    with pytest.raises(click.ClickException, match=r"cannot be used: head.bias: expected . rows"):
        open_initialization(replace(bundle, manifest=manifest), torch.device("cpu"))
