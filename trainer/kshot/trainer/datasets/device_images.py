"""A data set's pixels on the training device, prepared when they are taken."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import InputSpec, Rescale, Resize, value_table
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError


@dataclass(frozen=True)
class DevicePixels:
    """All images, uint8 `(image_count, channels, height, width)`, and how they are prepared.

    Pixels are multiplied by a `factor`, or else looked up in `table`, float32 `(channels, 256)`.
    Images for augmentation are `oversampling` times as high and wide as the network's input. Images
    that an encoder has encoded are float16, and prepared.
    """

    images: Tensor
    factor: float | None
    table: Tensor
    oversampling: int = 1

    @staticmethod
    def load(
        dataset: ImageDataset, spec: InputSpec, device: torch.device, oversampling: int = 1
    ) -> "DevicePixels":
        """Copy a data set to a device; raise `DataError` when its images do not fit the input."""
        shape = tuple(dataset.images.shape[1:])
        expected = enlarged(spec, oversampling).shape
        if shape != expected:
            raise DataError(f"images of {dataset.name}: expected shape {expected}, got {shape}")
        last = spec.preprocessing[-1]
        factor = last.factor if isinstance(last, Rescale) else None
        table = torch.from_numpy(value_table(spec)).to(device)
        return DevicePixels(dataset.images.to(device), factor, table, oversampling)

    @staticmethod
    def of_features(features: Tensor, device: torch.device) -> "DevicePixels":
        """Copy float16 images that an encoder has encoded to a device."""
        return DevicePixels(features.to(device), None, torch.empty(0, device=device))

    def take(self, rows: Tensor) -> Tensor:
        """Prepare images by int64 rows `(...)`: float32 `(..., channels, height, width)`.

        The rows are on the CPU. Larger images are reduced by area.
        """
        images = self.take_unreduced(rows)
        if self.oversampling == 1:
            return images
        reduced = functional.avg_pool2d(images.flatten(0, -4), self.oversampling)
        return reduced.reshape(*rows.shape, *reduced.shape[1:])

    def take_unreduced(self, rows: Tensor) -> Tensor:
        """Prepare images as `take`, but keep the size of larger ones."""
        images = self.images[to_device(rows, self.images.device)]
        if images.dtype is torch.float16:
            return images.float()
        if self.factor is None:
            channels = torch.arange(len(self.table), device=images.device)[:, None, None]
            return self.table[channels, images.long()]
        # Multiplied in float64 and rounded once: exactly the numbers that the server prepares.
        return images.to(torch.float64).mul_(self.factor).to(torch.float32)


def enlarged(spec: InputSpec, factor: int) -> InputSpec:
    """Return an input of `factor` times the height and width."""
    channels, height, width = spec.shape
    sides = factor * height, factor * width
    steps = (
        replace(step, height=sides[0], width=sides[1]) if isinstance(step, Resize) else step
        for step in spec.preprocessing
    )
    return replace(spec, shape=(channels, *sides), preprocessing=tuple(steps))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device; the host does not wait for a GPU."""
    if device.type == "cuda":
        # Expanded tensors cannot be pinned: pinning keeps strides, and writes every element.
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)
