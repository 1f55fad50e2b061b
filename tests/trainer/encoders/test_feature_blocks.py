"""The encoder of joined blocks: what each block holds, and its form."""

import pytest
import torch
from torch import Tensor, nn

from kshot.trainer.encoders.feature_blocks import (
    BlockEncoder,
    HistogramBlock,
    NetworkBlock,
    PixelBlock,
)


class Halves(nn.Module):
    """A network of one layer, whose maps are the image and twice the image."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images, 2 * images]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 10, 8, generator=torch.Generator().manual_seed(0)) * 2 - 0.9


def direction(features: Tensor) -> Tensor:
    """Return rows of length 1."""
    return features / features.norm(dim=1, keepdim=True)


def test_blocks_are_directions_of_means_and_deviations_of_maps_and_cells(images: Tensor) -> None:
    blocks = (
        NetworkBlock(0, -1),
        NetworkBlock(0, -1, root=True),
        NetworkBlock(0, 0, "deviation"),
        NetworkBlock(0, 0, grid=2),
        PixelBlock(2),
        PixelBlock(2, color=True),
    )

    mean, root, deviation, grid, gray, color = BlockEncoder([Halves()], blocks).parts(images)

    means = images.mean(dim=(2, 3))
    torch.testing.assert_close(mean, direction(means))
    torch.testing.assert_close(
        root.square(), means.clamp_min(0) / means.clamp_min(0).sum(1)[:, None]
    )
    torch.testing.assert_close(deviation, direction(images.std(dim=(2, 3), unbiased=False)))
    halves = images.unflatten(2, (2, 5)).unflatten(4, (2, 4)).mean(dim=(3, 5))
    torch.testing.assert_close(grid, direction(halves.flatten(1)))
    torch.testing.assert_close(gray, direction(halves.mean(dim=1).flatten(1)))
    torch.testing.assert_close(color, grid)


def test_cells_share_pixels_on_their_edges(images: Tensor) -> None:
    (thirds,) = BlockEncoder([], [PixelBlock(3)]).parts(images[:, :, :, :1])

    column = images[:, :, :, 0].mean(dim=1)  # 10 rows in cells of 10 / 3
    first = column[:, :3].sum(dim=1) + column[:, 3] / 3
    second = column[:, 3] * 2 / 3 + column[:, 4:6].sum(dim=1) + column[:, 6] * 2 / 3
    ratio = thirds.reshape(3, 3, 3)[:, 0, 0] / thirds.reshape(3, 3, 3)[:, 1, 0]
    torch.testing.assert_close(ratio, first / second)


def test_a_histogram_counts_shares_of_colours() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 6, 6).clone()
    red[:, :, :3] = 0.1  # gray: the third of four bins in each channel

    (root,) = BlockEncoder([], [HistogramBlock(stride=1)]).parts(red)

    shares = root.square()[0]
    assert shares.sum().item() == pytest.approx(1.0)
    assert shares[3 * 16].item() == pytest.approx(0.5)
    assert shares[2 * 16 + 2 * 4 + 2].item() == pytest.approx(0.5)


def test_blocks_are_joined(images: Tensor) -> None:
    encoder = BlockEncoder([], (PixelBlock(2), HistogramBlock()))

    encoded = encoder(images)

    assert encoded.shape == (3, 4 + 64, 1, 1)
    assert torch.equal(encoded[:, :, 0, 0], torch.cat(encoder.parts(images), dim=1))
    assert torch.isfinite(encoder(torch.zeros(1, 3, 10, 8))).all()


def test_maps_for_a_tail_follow_the_blocks(images: Tensor) -> None:
    encoder = BlockEncoder([Halves()], (PixelBlock(2),), tail_input=(0, 1))

    encoded, maps = encoder(images)

    assert torch.equal(maps, 2 * images)
    assert torch.equal(encoded[:, :4, 0, 0], torch.cat(encoder.parts(images), dim=1))
    assert torch.equal(encoded[:, 4:, 0, 0], maps.flatten(1))
