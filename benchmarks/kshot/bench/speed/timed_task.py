"""The task that the contenders of `kshot bench adapt` adapt to, with generated images."""

from dataclasses import dataclass

import click
import torch
from torch import Tensor

from kshot.bundle import Bundle, Manifest
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
from kshot.trainer.tasks.episodes import sample_episodes

_INK, _PAPER = 0, 255


@dataclass(frozen=True)
class Size:
    """The numbers that decide the cost of an adaptation."""

    way: int
    shot: int
    step_count: int
    batch_size: int


@dataclass(frozen=True)
class TimedTask:
    """One adaptation with all its options, the same for every contender.

    `support` is float32 `(n, channels, height, width)`, `classes` int64 `(n,)`, `batches` int64
    `(steps, batch_size)`: the rows of each step.
    """

    initialization: Initialization
    network: Conv4
    manifest: Manifest
    size: Size
    support: Tensor
    classes: Tensor
    batches: Tensor

    @property
    def device(self) -> torch.device:
        """Return the device that computes."""
        return self.support.device

    @property
    def rule(self) -> StepRule:
        """Return the bundle's inner step."""
        return StepRule.of(self.manifest.inner_loop, self.manifest.inner_loop.preconditioner)

    def start(self, bucket: int | None = None) -> LoopState:
        """Make the state from which an adaptation starts, its head padded to a bucket of ways."""
        return start_state(
            self.initialization,
            self.size.way,
            head=self.manifest.head.default,
            preconditioner=self.manifest.inner_loop.preconditioner,
            support=self.support,
            classes=self.classes,
            bucket=bucket,
        )


def comparable_network(network: Network) -> Conv4:
    """Return a network that the plain loop implements; raises `ClickException` for another."""
    if not isinstance(network, Conv4) or network.downsampling != "stride":
        raise click.ClickException(
            f"network: expected conv4 with strides, which the plain loop implements, got {network}"
        )
    return network


def open_initialization(bundle: Bundle, device: torch.device) -> Initialization:
    """Load a bundle's weights onto a device; raises `ClickException` when they do not fit it."""
    try:
        return Initialization.from_bundle(bundle, device)
    except ValueError as error:
        raise click.ClickException(f"bundle {bundle.path} cannot be used: {error}") from None


def generated_task(manifest: Manifest, initialization: Initialization, size: Size) -> TimedTask:
    """Make a task of generated images: the cost of an adaptation does not depend on its images.

    Raises `ClickException` when the plain loop does not implement the network.
    """
    device = initialization.parameters["head.bias"].device
    dataset = generated_dataset(manifest.input.shape, size.way, size.shot)
    generator = torch.Generator().manual_seed(0)
    episode = sample_episodes(dataset, 1, size.way, size.shot, 0, generator)[0]
    support = DevicePixels.load(dataset, manifest.input, device).take(episode.support)
    batches = cycling_indices(len(episode.support), size.batch_size, size.step_count, seed=0)
    return TimedTask(
        initialization,
        comparable_network(initialization.network),
        manifest,
        size,
        support,
        episode.support_classes.to(device),
        batches.to(device),
    )


def generated_dataset(
    shape: tuple[int, int, int], class_count: int, image_count: int, seed: int = 0
) -> ImageDataset:
    """Make classes of black noise on white; a fifth of an image's pixels differ from its class."""
    generator = torch.Generator().manual_seed(seed)
    strokes = torch.rand(class_count, 1, *shape, generator=generator) < 0.2
    changed = torch.rand(class_count, image_count, *shape, generator=generator) < 0.2
    images = torch.where(strokes ^ changed, _INK, _PAPER).to(torch.uint8)
    offsets = torch.arange(class_count + 1) * image_count
    names = tuple(f"class{number}" for number in range(class_count))
    return make_dataset("generated images", images.flatten(0, 1), offsets, names)
