import pytest
import torch

from kshot.trainer.datasets.dataset import make_dataset, with_rotations
from kshot.trainer.errors import DataError


def three_classes(images: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return (made if images is None else images), torch.tensor([0, 1, 3, 6])


def test_a_dataset_counts_its_classes_and_images() -> None:
    dataset = make_dataset("letters", *three_classes(), ("a", "b", "c"))

    assert dataset.class_count == 3
    assert dataset.image_count == 6


def test_the_digest_changes_with_a_pixel_a_name_and_a_boundary() -> None:
    images, offsets = three_classes()
    changed = images.clone()
    changed[5, 0, 3, 3] ^= 1
    digests = {
        make_dataset("letters", images, offsets, ("a", "b", "c")).digest,
        make_dataset("letters", changed, offsets, ("a", "b", "c")).digest,
        make_dataset("letters", images, offsets, ("a", "b", "d")).digest,
        make_dataset("letters", images, torch.tensor([0, 2, 3, 6]), ("a", "b", "c")).digest,
    }

    assert len(digests) == 4
    assert make_dataset("other", images, offsets, ("a", "b", "c")).digest in digests


def test_rotations_make_four_classes_of_each_side_by_side() -> None:
    images, offsets = three_classes()
    rotated = with_rotations(make_dataset("letters", images, offsets, ("a", "b", "c")))

    assert rotated.class_count == 12
    assert rotated.class_names[4:8] == ("b@0", "b@90", "b@180", "b@270")
    assert rotated.class_offsets.tolist() == [0, 1, 2, 3, 4, 6, 8, 10, 12, 15, 18, 21, 24]
    for turn in range(4):
        start, end = rotated.class_offsets[4 + turn : 6 + turn].tolist()
        expected = torch.rot90(images[1:3], turn, dims=(2, 3))
        assert torch.equal(rotated.images[start:end], expected)


def test_images_that_are_not_square_are_not_rotated() -> None:
    images = torch.zeros(6, 1, 4, 5, dtype=torch.uint8)

    with pytest.raises(DataError, match="expected square ones to rotate, got 4x5"):
        with_rotations(make_dataset("letters", images, three_classes()[1], ("a", "b", "c")))
