"""Random changes of training images: mirrored, moved, rotated, enlarged."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from kshot.trainer.recipe.recipe import Augmentation


def draw_transforms(
    augmentation: Augmentation,
    shape: tuple[int, ...],
    sides: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Draw an affine map for each image of `sides` (height, width): float32 `(*shape, 2, 3)`.

    It maps positions in the new image to positions in the old one, both in -1..1, x before y.
    """

    def uniform(most: float) -> Tensor:
        return most * (2 * torch.rand(shape, generator=generator) - 1)

    turn = uniform(math.radians(augmentation.rotation_degrees))
    size = torch.exp(uniform(math.log1p(augmentation.scale)))
    aspect = sides[0] / sides[1]
    mirror = torch.ones(shape)
    if augmentation.flip:
        mirror = 1 - 2 * torch.randint(2, shape, generator=generator).float()
    cosine, sine = turn.cos() / size, turn.sin() / size
    rows = (
        torch.stack([mirror * cosine, -sine * aspect], dim=-1),
        torch.stack([mirror * sine / aspect, cosine], dim=-1),
    )
    linear = torch.stack(rows, dim=-2)
    # A share of a side, which is 2 long, in the new image.
    moves = (uniform(2 * augmentation.shift), uniform(2 * augmentation.shift))
    return torch.cat([linear, linear @ torch.stack(moves, dim=-1).unsqueeze(-1)], dim=-1)


def warp(images: Tensor, transforms: Tensor) -> Tensor:
    """Map images `(..., channels, height, width)` by `(..., 2, 3)`, bilinearly."""
    flat = images.flatten(0, -4)
    grid = functional.affine_grid(transforms.flatten(0, -3), list(flat.shape), align_corners=False)
    warped = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return warped.reshape(images.shape)
