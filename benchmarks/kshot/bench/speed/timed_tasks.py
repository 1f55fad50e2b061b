"""The tasks that the benchmarks adapt to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import click
import torch
from torch import Tensor

from kshot.bench.report import say
from kshot.bundle import Bundle, Manifest, Preconditioner
from kshot.learner import (
    Conv4,
    Initialization,
    LoopState,
    Network,
    StepRule,
    cycling_indices,
    start_state,
)
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.datasets.registry import data_of, read_dataset
from kshot.trainer.recipe.recipe import Data
from kshot.trainer.tasks.episodes import sample_episode

__all__ = [
    "AdaptTask",
    "Size",
    "generated_dataset",
    "generated_task",
    "handwriting",
    "has_yardstick",
    "open_initialization",
    "way_bucket",
]

_INK, _PAPER = 0, 255


@dataclass(frozen=True)
class Size:
    """What the cost of an adaptation goes by."""

    way: int
    shot: int
    step_count: int
    batch_size: int


@dataclass(frozen=True)
class AdaptTask:
    """One adaptation, all options resolved: the same for every contender.

    ``support`` is float32 ``(n, channels, height, width)``, ``classes`` int64 ``(n,)``,
    ``batches`` int64 ``(steps, batch_size)``: the rows that each step sees.
    """

    initialization: Initialization
    manifest: Manifest
    size: Size
    support: Tensor
    classes: Tensor
    batches: Tensor
    preconditioner: Preconditioner

    @property
    def network(self) -> Conv4:
        """The bundle's network; `open_initialization` admits no other kind."""
        network = self.initialization.network
        if not isinstance(network, Conv4):
            raise TypeError(f"network is {network!r}, wanted conv4")
        return network

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.support.device

    @property
    def rule(self) -> StepRule:
        """The bundle's inner step."""
        return StepRule.of(self.manifest.inner_loop, self.preconditioner)

    def start(self, bucket: int | None = None) -> LoopState:
        """Make the state from which an adaptation starts, its head padded to a bucket of ways."""
        return start_state(
            self.initialization,
            self.size.way,
            head=self.manifest.head.default,
            preconditioner=self.preconditioner,
            support=self.support,
            classes=self.classes,
            bucket=bucket,
        )


def way_bucket(manifest: Manifest, way: int) -> int:
    """Return the number of ways to which a bundle's heads are padded for a task of some ways."""
    return min((bucket for bucket in manifest.inner_loop.way_buckets if bucket >= way), default=way)


def open_initialization(bundle: Bundle, device: torch.device) -> Initialization:
    """Take a bundle's weights to a device.

    Raises ``ClickException`` when they do not fit its network, or the plain loop is written for
    another.
    """
    try:
        initialization = Initialization.from_bundle(bundle, device)
    except ValueError as error:
        raise click.ClickException(f"bundle {bundle.path} cannot be used: {error}") from None
    if not has_yardstick(initialization.network):
        raise click.ClickException(
            f"network of bundle {bundle.path} is {bundle.manifest.network.name}, wanted conv4 "
            "without max-pooling: the plain loop is written for no other"
        )
    return initialization


def has_yardstick(network: Network) -> TypeGuard[Conv4]:
    """Tell whether a network is the one that the plain loops are written for."""
    return isinstance(network, Conv4) and network.downsampling == "stride"


def generated_task(
    manifest: Manifest,
    initialization: Initialization,
    size: Size,
    preconditioner: Preconditioner | None = None,
) -> AdaptTask:
    """Make a task of generated images: what an adaptation costs does not go by what they show.

    Without a preconditioner it is the manifest's default.
    """
    device = initialization.parameters["head.bias"].device
    dataset = generated_dataset(manifest.input.shape, size.way, size.shot)
    generator = torch.Generator().manual_seed(0)
    episode = sample_episode(dataset, size.way, size.shot, 0, generator)
    support = DevicePixels.load(dataset, manifest.input, device).take(episode.support)
    batches = cycling_indices(len(episode.support), size.batch_size, size.step_count, seed=0)
    return AdaptTask(
        initialization,
        manifest,
        size,
        support,
        episode.support_classes.to(device),
        batches.to(device),
        preconditioner or manifest.inner_loop.preconditioner,
    )


def generated_dataset(
    shape: tuple[int, int, int], class_count: int, image_count: int, seed: int = 0
) -> ImageDataset:
    """Make classes of black noise on white, each image a fifth of its pixels off its class."""
    generator = torch.Generator().manual_seed(seed)
    strokes = torch.rand(class_count, 1, *shape, generator=generator) < 0.2
    changed = torch.rand(class_count, image_count, *shape, generator=generator) < 0.2
    images = torch.where(strokes ^ changed, _INK, _PAPER).to(torch.uint8)
    offsets = torch.arange(class_count + 1) * image_count
    names = tuple(f"class{number}" for number in range(class_count))
    return make_dataset("generated images", images.flatten(0, 1), offsets, names)


def handwriting(bundle: Bundle, data_folder: Path | None) -> ImageDataset:
    """Read what accuracy is measured on: the bundle's test classes, or scikit-learn's digits.

    The test classes need the data set's folder. Raises ``DataError`` when that does not hold it.
    """
    manifest = bundle.manifest
    if data_folder is None:
        say("no data folder is named: accuracy is measured on scikit-learn's digits")
        digits = Data("digits", "all", rotations=False)
        return read_dataset(digits, Path(), "test", input_spec=manifest.input)
    data = data_of(manifest.provenance)
    return read_dataset(data, data_folder, "test", input_spec=manifest.input)
