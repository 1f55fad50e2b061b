"""The preprocessing step `ink` in torch, for drawings that augmentation has changed."""

import torch
from torch import Tensor
from torch.nn import functional

# What is darker than this share of the strongest ink belongs to the ground.
INK_SHARE = 0.4
# Samples a side of each pixel of the result, averaged.
SAMPLES = 2


def fit_ink(images: Tensor, margin: float, sides: tuple[int, int]) -> Tensor:
    """Crop to the ink, pad by `margin` of its longer side to a square, and resize by area.

    `images` are float32 `(n, channels, height, width)`, ink above a ground of 0; the result is
    `(n, channels, *sides)`, its strongest ink 1. A blank image stays blank. Nothing here waits for
    the device.
    """
    height, width = images.shape[2:]
    strongest = images.flatten(1).amax(dim=1).clamp(min=1e-6)
    ink = (images > INK_SHARE * strongest[:, None, None, None]).any(dim=1)  # (n, height, width)
    top, bottom = _span(ink.any(dim=2))
    left, right = _span(ink.any(dim=1))
    side = (1 + 2 * margin) * torch.maximum(bottom - top, right - left)
    zero = torch.zeros_like(side)
    rows = (
        torch.stack([side / width, zero, (left + right) / width - 1], dim=1),
        torch.stack([zero, side / height, (top + bottom) / height - 1], dim=1),
    )
    size = [len(images), images.shape[1], *(SAMPLES * length for length in sides)]
    grid = functional.affine_grid(torch.stack(rows, dim=1), size, align_corners=False)
    cut = functional.grid_sample(images, grid, align_corners=False)
    reduced = functional.avg_pool2d(cut, SAMPLES)
    strongest = reduced.flatten(1).amax(dim=1).clamp(min=0.05)[:, None, None, None]
    return (reduced / strongest).clamp(0, 1)


def _span(lines: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the true entries of `(n, length)` begin and end; all, if there are none."""
    first = lines.float().argmax(dim=1)
    end = lines.shape[1] - lines.flip(1).float().argmax(dim=1)
    return first.float(), end.float()
