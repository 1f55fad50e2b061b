"""A data set's pixels on the device that trains, prepared as they are taken."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kshot.bundle import InputSpec, rescale
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.errors import DataError


@dataclass(frozen=True)
class DevicePixels:
    """All images, and what each of the 256 values of a pixel becomes for the network.

    ``images`` is uint8 ``(image_count, channels, height, width)``, ``prepared`` float32 ``(256,)``:
    a table, so that training sees the very numbers that serving prepares.
    """

    images: Tensor
    prepared: Tensor

    @staticmethod
    def load(dataset: ImageDataset, spec: InputSpec, device: torch.device) -> "DevicePixels":
        """Bring a data set to a device.

        Raises ``DataError`` when its images do not have the input's shape.
        """
        shape = tuple(dataset.images.shape[1:])
        if shape != tuple(spec.shape):
            raise DataError(
                f"images of {dataset.name} have shape {shape}, the input wants {tuple(spec.shape)}"
            )
        prepared = torch.from_numpy(rescale(np.arange(256, dtype=np.uint8), spec))
        return DevicePixels(dataset.images.to(device), prepared.to(device))

    def take(self, rows: Tensor) -> Tensor:
        """Prepare images by int64 rows ``(...)``: float32 ``(..., channels, height, width)``."""
        return self.prepared[self.images[rows.to(self.images.device)].to(torch.int64)]
