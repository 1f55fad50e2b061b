"""A data set's pixels on the training device, prepared when they are taken."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.bundle import InputSpec, Rescale
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError


@dataclass(frozen=True)
class DevicePixels:
    """All images, uint8 `(image_count, channels, height, width)`, and the factor of rescaling."""

    images: Tensor
    factor: float

    @staticmethod
    def load(dataset: ImageDataset, spec: InputSpec, device: torch.device) -> "DevicePixels":
        """Copy a data set to a device; raise `DataError` when its images do not fit the input."""
        shape = tuple(dataset.images.shape[1:])
        if shape != tuple(spec.shape):
            raise DataError(
                f"images of {dataset.name}: expected shape {tuple(spec.shape)}, got {shape}"
            )
        factor = next(step.factor for step in spec.preprocessing if isinstance(step, Rescale))
        return DevicePixels(dataset.images.to(device), factor)

    def take(self, rows: Tensor) -> Tensor:
        """Prepare images by int64 rows `(...)`: float32 `(..., channels, height, width)`.

        The rows are on the CPU.
        """
        images = self.images[to_device(rows, self.images.device)]
        # Multiplied in float64 and rounded once: exactly the numbers that the server prepares.
        return images.to(torch.float64).mul_(self.factor).to(torch.float32)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device; the host does not wait for a GPU."""
    if device.type == "cuda":
        # Expanded tensors cannot be pinned: pinning keeps strides, and writes every element.
        tensor = tensor.contiguous().pin_memory()
    return tensor.to(device, non_blocking=True)
