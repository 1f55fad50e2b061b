import numpy as np
import pytest
import torch

from kshot.bundle import Grayscale, Ink, InputSpec, Rescale, Resize, pixels
from kshot.trainer.datasets.ink_fit import fit_ink


def test_ink_fills_the_square_inside_its_margin() -> None:
    """A bar of 8 by 4 pixels: its side with margins, 12, becomes 24."""
    images = torch.zeros(1, 1, 30, 40)
    images[0, 0, 5:13, 20:24] = 0.5

    fitted = fit_ink(images, 0.25, (24, 24))

    rows, columns = (fitted[0, 0] > 0.5).nonzero().unbind(1)
    assert (rows.min().item(), rows.max().item()) == (4, 19)
    assert (columns.min().item(), columns.max().item()) == (8, 15)
    assert float(fitted.max()) == pytest.approx(1)


def test_faint_strokes_belong_to_the_ground_and_a_blank_image_stays_blank() -> None:
    images = torch.zeros(2, 1, 16, 16)
    images[0, 0, 4:8, 4:8] = 1
    images[0, 0, 12:, 12:] = 0.2

    fitted = fit_ink(images, 0.0, (8, 8))

    assert float(fitted[0].mean()) > 0.8
    assert not fitted[1].any()


def test_a_drawing_is_fitted_as_in_service() -> None:
    """Up to the pixels that the two cut at the edges of strokes."""
    drawn = np.zeros((60, 60), np.uint8)
    drawn[10:38, 20:26] = 200
    drawn[32:38, 20:40] = 200
    steps = (Grayscale(), Ink(0.12), Resize(28, 28, "box"), Rescale(1 / 255))
    served = pixels(drawn[None], InputSpec((1, 28, 28), steps))[0] / 255

    fitted = fit_ink(torch.from_numpy(drawn / 200).float()[None, None], 0.12, (28, 28))

    assert np.abs(fitted[0].numpy() - served).mean() < 0.05
