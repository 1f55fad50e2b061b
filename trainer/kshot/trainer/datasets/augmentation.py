"""Random changes of training images: mirrored, moved, slanted, thicker, blurred, noisy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import Ink, InputSpec
from kshot.trainer.datasets.device_images import to_device
from kshot.trainer.datasets.ink_fit import fit_ink
from kshot.trainer.recipe.recipe import Augmentation

# How much of a canvas changed drawings show: a slanted one stays inside.
INK_VIEW = 1.5


@dataclass(frozen=True)
class Changes:
    """The drawn changes of images, one of each for each image; None is not asked for.

    `transforms`, float32 `(..., 2, 3)`, map positions in the new image to positions in the old one,
    both in -1..1, x before y. `widths`, int64 `(...)`, are the pixels by which light strokes grow
    on each side. `blurs` are deviations in pixels and `exponents` powers, float32 `(...)`; `noise`,
    float32 `(..., channels, height, width)`, is added to values of 0..1.
    """

    transforms: Tensor
    widths: Tensor | None = None
    blurs: Tensor | None = None
    exponents: Tensor | None = None
    noise: Tensor | None = None

    def part(self, tasks: slice) -> Changes:
        """Return the changes of some of the tasks."""
        drawn: dict[str, Tensor | None] = vars(self)
        return replace(self, **{name: t[tasks] for name, t in drawn.items() if t is not None})


def draw_changes(
    augmentation: Augmentation,
    shape: tuple[int, ...],
    image_shape: tuple[int, int, int],
    generator: torch.Generator,
) -> Changes:
    """Draw the changes of `shape` images of `image_shape` (channels, height, width), on the CPU."""
    transforms = draw_transforms(augmentation, shape, image_shape[1:], generator)
    widths = blurs = exponents = noise = None
    if augmentation.stroke_pixels:
        widths = torch.randint(augmentation.stroke_pixels + 1, shape, generator=generator)
    if augmentation.blur_pixels:
        blurs = augmentation.blur_pixels * torch.rand(shape, generator=generator)
    if augmentation.gamma:
        most = math.log1p(augmentation.gamma)
        exponents = torch.exp(most * (2 * torch.rand(shape, generator=generator) - 1))
    if augmentation.noise:
        deviations = augmentation.noise * torch.rand(*shape, 1, 1, 1, generator=generator)
        noise = deviations * torch.randn(*shape, *image_shape, generator=generator)
    return Changes(transforms, widths, blurs, exponents, noise)


def changed(images: Tensor, changes: Changes, spec: InputSpec) -> Tensor:
    """Change images `(..., channels, height, width)` of 0..1, and reduce them to the input's size.

    Drawings that the preprocessing fits to their ink are fitted again after they have changed, as
    a drawing of that form is in service.
    """
    flat, (height, width) = images.flatten(0, -4), spec.shape[1:]
    margin = ink_margin(spec)
    view = 1.0 if margin is None else INK_VIEW
    flat = warp(flat, to_device(changes.transforms.flatten(0, -3), images.device), view)
    if changes.widths is not None:
        flat = widened(flat, changes.widths.flatten())
    if margin is not None:
        flat = fit_ink(flat, margin, (height, width))
    elif flat.shape[-2:] != (height, width):
        flat = functional.avg_pool2d(flat, flat.shape[-1] // width)
    return toned(flat.reshape(*images.shape[:-2], height, width), changes)


def ink_margin(spec: InputSpec) -> float | None:
    """Return the margin of the step `ink`, or None without that step."""
    return next((step.margin for step in spec.preprocessing if isinstance(step, Ink)), None)


def draw_transforms(
    augmentation: Augmentation,
    shape: tuple[int, ...],
    sides: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Draw an affine map for each image of `sides` (height, width), as `Changes.transforms`."""

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
    if augmentation.stretch:
        both = [torch.exp(uniform(math.log1p(augmentation.stretch))) for _ in sides]
        linear = linear * torch.stack(both, dim=-1).unsqueeze(-2)
    if augmentation.slant:
        shear = torch.eye(2).repeat(*shape, 1, 1)
        shear[..., 0, 1] = uniform(augmentation.slant) * aspect
        linear = linear @ shear
    return torch.cat([linear, linear @ torch.stack(moves, dim=-1).unsqueeze(-1)], dim=-1)


def warp(images: Tensor, transforms: Tensor, view: float = 1.0) -> Tensor:
    """Map images `(..., channels, height, width)` by `(..., 2, 3)`, bilinearly.

    The new images show `view` times the old canvas; the border is repeated outwards.
    """
    flat = images.flatten(0, -4)
    linear, move = torch.split(transforms.flatten(0, -3), [2, 1], dim=-1)
    maps = torch.cat([view * linear, move], dim=-1)
    grid = functional.affine_grid(maps, list(flat.shape), align_corners=False)
    warped = functional.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return warped.reshape(images.shape)


def widened(images: Tensor, widths: Tensor) -> Tensor:
    """Widen what is light in images `(n, channels, height, width)` by pixels `(n,)` on each side.

    Each pixel becomes the maximum of a square around it. The widths are on the CPU.
    """
    grown = images.clone()
    for width in range(1, int(widths.max()) + 1):
        rows = to_device((widths == width).nonzero()[:, 0], images.device)
        side = 2 * width + 1
        across = functional.max_pool2d(images[rows], (1, side), 1, (0, width))
        grown[rows] = functional.max_pool2d(across, (side, 1), 1, (width, 0))
    return grown


def blurred(images: Tensor, deviations: Tensor) -> Tensor:
    """Blur images `(n, channels, height, width)` by a Gaussian of `(n,)` pixels, cut at 3."""
    n, channels, height, width = images.shape
    places = torch.arange(-3, 4, device=images.device)
    kernels = torch.exp(-places.square() / (2 * deviations.clamp(min=0.05)[:, None].square()))
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = functional.pad(images, (3, 3, 3, 3), mode="replicate")
    flat = flat.reshape(1, n * channels, height + 6, width + 6)
    across = functional.conv2d(flat, kernels[:, None, None, :], groups=n * channels)
    down = functional.conv2d(across, kernels[:, None, :, None], groups=n * channels)
    return down.reshape(images.shape)


def toned(images: Tensor, changes: Changes) -> Tensor:
    """Blur images `(..., channels, height, width)` of 0..1, take powers, and add noise."""
    device = images.device
    if changes.blurs is not None:
        flat = images.flatten(0, -4)
        images = blurred(flat, to_device(changes.blurs.flatten(), device)).reshape(images.shape)
    if changes.exponents is not None:
        images = images.pow(to_device(changes.exponents, device)[..., None, None, None])
    if changes.noise is not None:
        images = (images + to_device(changes.noise, device)).clamp(0, 1)
    return images
