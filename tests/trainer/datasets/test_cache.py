from pathlib import Path

import pytest
import torch

from kshot.trainer.datasets.cache import cache_folder, cached_dataset
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def letters() -> ImageDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return make_dataset("letters", images, torch.tensor([0, 2, 5]), ("a", "b\n"), "d" * 64)


class Maker:
    """Makes the letters and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> ImageDataset:
        self.count += 1
        return letters()


def test_what_is_kept_is_what_was_made() -> None:
    make = Maker()
    made, kept = (cached_dataset("key", make) for _ in range(2))

    assert make.count == 1
    assert torch.equal(kept.images, made.images)
    assert torch.equal(kept.class_offsets, made.class_offsets)
    for field in ("name", "class_names", "digest", "split_digest"):
        assert getattr(kept, field) == getattr(made, field)


def test_another_key_is_another_data_set() -> None:
    make = Maker()
    for key in ("one", "two", "one"):
        cached_dataset(key, make)

    assert make.count == 2


def test_no_changed_byte_of_the_cache_is_believed() -> None:
    """Also none in the names, offsets and digests beside the pixels."""
    make = Maker()
    made = cached_dataset("key", make)
    (path,) = cache_folder().iterdir()
    whole = path.read_bytes()
    differing = 0

    positions = range(0, len(whole), 2)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        before = make.count
        found = cached_dataset("key", make)
        differing += make.count - before
        assert (found.digest, found.name, found.split_digest, found.class_names) == (
            *(made.digest, made.name, made.split_digest),
            made.class_names,
        )
    assert differing > 0.9 * len(positions)  # the others are padding of the header
