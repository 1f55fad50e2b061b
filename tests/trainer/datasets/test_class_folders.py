import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from kshot.bundle import InputSpec, Rescale, Resize, Rgb
from kshot.trainer.datasets.cache import cache_folder
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

SPEC = InputSpec((3, 8, 8), (Rgb(), Resize(8, 8, "bilinear"), Rescale(1 / 255)))
CLASSES = ("ape", "bee", "cat", "dog")


def picture(color: int, size: tuple[int, int] = (11, 9), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (color, 0, 255 - color)).save(stream, format=kind)
    return stream.getvalue()


def write_classes(folder: Path, names: tuple[str, ...] = CLASSES) -> Path:
    """Write a PNG, a JPEG and a WebP of each class, each a colour of the class's own."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for kind in ("PNG", "JPEG", "WEBP"):
            size = (11 + number, 9)
            path = folder / name / f"image.{kind.lower()}"
            path.write_bytes(picture(40 * number, size, kind))
    return folder


def read(
    data_folder: Path,
    split: str,
    part: str,
    folder: str | None = "animals",
    progress: Callable[[int, int], None] | None = None,
) -> ImageDataset:
    data = Data("folder", split, rotations=False, folder=folder)
    return read_dataset(data, data_folder, part, input_spec=SPEC, progress=progress)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A data folder with the class folders in ``animals``, and a split file."""
    write_classes(tmp_path / "data" / "animals")
    rows = ("class,part", "ape,train", "bee,test", "cat,train", "dog,val")
    (tmp_path / "data" / "animals" / "split.csv").write_text("\n".join(rows))
    return tmp_path / "data"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A data folder with train, val and test folders in ``animals``."""
    folder = tmp_path / "data" / "animals"
    for part, names in (("train", ("ape", "cat")), ("val", ("dog",)), ("test", ("bee",))):
        write_classes(folder / part, names)
    return tmp_path / "data"


def test_images_of_any_size_and_format_are_brought_to_the_input(animals: Path) -> None:
    dataset = read(animals, "file:split.csv", "train")

    assert dataset.class_names == ("ape", "cat")
    assert dataset.class_offsets.tolist() == [0, 3, 6]
    assert dataset.images.shape == (6, 3, 8, 8)
    assert dataset.images.dtype == torch.uint8
    for index, color in ((0, 0), (3, 80)):
        expected = torch.tensor([color, 0, 255 - color])[None, :, None, None]
        difference = dataset.images[index : index + 3].int() - expected
        assert int(difference.abs().max()) <= 4  # JPEG rounds colours


def test_the_parts_of_a_split_share_its_digest_and_no_class(animals: Path) -> None:
    for split in ("file:split.csv", "seed:0", "seed:1"):
        found = [read(animals, split, part) for part in ("train", "val", "test")]
        assert len({dataset.split_digest for dataset in found}) == 1
        assert sorted(name for dataset in found for name in dataset.class_names) == list(CLASSES)


def test_folders_of_parts_are_a_split(parts: Path) -> None:
    train, val, test = (read(parts, "parts", part) for part in ("train", "val", "test"))

    assert train.class_names == ("ape", "cat")
    assert val.class_names == ("dog",)
    assert test.class_names == ("bee",)
    assert train.split_digest == val.split_digest == test.split_digest


def test_the_same_split_has_the_same_digest_however_it_is_written(
    animals: Path, parts: Path, tmp_path: Path
) -> None:
    shutil.copytree(animals / "animals", tmp_path / "other" / "animals")
    for part in ("train", "val", "test"):
        shutil.rmtree(tmp_path / "other" / "animals" / part)

    listed = read(tmp_path / "other", "file:split.csv", "test")

    assert listed.split_digest == read(parts, "parts", "test").split_digest
    assert listed.class_names == ("bee",)


def test_only_the_asked_part_is_decoded_and_only_once(animals: Path) -> None:
    decoded: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        decoded.append((done, total))

    first = read(animals, "file:split.csv", "train", progress=progress)
    again = read(animals, "file:split.csv", "train", progress=progress)
    assert decoded == [(6, 6)]
    assert (again.digest, again.name) == (first.digest, first.name)

    (animals / "animals" / "ape" / "image.png").write_bytes(picture(7, (30, 30)))
    changed = read(animals, "file:split.csv", "train", progress=progress)
    assert decoded == [(6, 6), (6, 6)]
    assert changed.digest != first.digest


def test_hidden_files_and_those_that_are_no_images_are_passed_over(animals: Path) -> None:
    (animals / "animals" / ".git").mkdir()
    (animals / "animals" / "ape" / ".image.png").write_bytes(b"")
    (animals / "animals" / "ape" / "notes.txt").write_text("apes")

    assert read(animals, "file:split.csv", "train").image_count == 6


def spoil(folder: Path) -> None:
    (folder / "cat" / "image.jpeg").write_bytes(b"no picture")


def truncate(folder: Path) -> None:
    path = folder / "cat" / "image.png"
    path.write_bytes(path.read_bytes()[:-30])


def empty_a_class(folder: Path) -> None:
    shutil.rmtree(folder / "cat")
    (folder / "cat").mkdir()


def add_a_gif(folder: Path) -> None:
    (folder / "cat" / "more.gif").write_bytes(b"")


def break_a_link(folder: Path) -> None:
    (folder / "cat" / "link.png").symlink_to(folder / "nowhere")


def break_a_class(folder: Path) -> None:
    (folder / "cow").symlink_to(folder / "nowhere")


def link_a_class_to_itself(folder: Path) -> None:
    (folder / "cow").symlink_to(folder / "cow")


def name_a_class_in_another_encoding(folder: Path) -> None:
    (folder / "cat").rename(folder / os.fsdecode(b"\xe9"))


def name_an_image_in_another_encoding(folder: Path) -> None:
    (folder / "cat" / "image.png").rename(folder / "cat" / os.fsdecode(b"\xe9.png"))


def remove_a_class(folder: Path) -> None:
    shutil.rmtree(folder / "cat")


def add_a_class(folder: Path) -> None:
    shutil.copytree(folder / "cat", folder / "cow")


def name_a_class_twice(folder: Path) -> None:
    with (folder / "split.csv").open("a") as file:
        file.write("\ncat,test")


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "split.csv").write_text("class,part\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil, r"cat/image.jpeg in .*animals is text, not a PNG, JPEG or WebP image"),
        (truncate, r"cat/image.png in .*animals is damaged"),
        (empty_a_class, r"class folder .*cat has no images; expected at least 1"),
        (add_a_gif, r"more.gif: a GIF file; expected PNG, JPEG or WebP; convert it"),
        (break_a_link, r"link.png: dangling link; expected a class folder or an image"),
        (break_a_class, r"cow: dangling link; expected a class folder"),
        (link_a_class_to_itself, r"cow: dangling link"),
        (name_a_class_in_another_encoding, r"animals holds b'\\xe9'; expected a name in UTF-8"),
        (name_an_image_in_another_encoding, r"cat holds b'\\xe9.png'; expected a name in UTF-8"),
        (remove_a_class, r"split.csv, line 4: class 'cat' has no folder"),
        (add_a_class, r"split.csv: class 'cow' is missing; each class needs a part"),
        (name_a_class_twice, r"split.csv, line 6: class 'cat' appears twice"),
        (remove_all, r"animals: expected one subdirectory of images per class, got none"),
    ],
)
def test_what_is_damaged_or_incomplete_is_refused_by_name(
    animals: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(animals / "animals")

    with pytest.raises(DataError, match=message):
        read(animals, "file:split.csv", "train")
    assert not list(cache_folder().glob("*"))


def test_unknown_splits_and_parts_are_refused(animals: Path) -> None:
    for split in ("random", "seed:", "seed:-1", "seed:x", f"seed:{10**18}", "file:", "parts:1"):
        with pytest.raises(
            DataError,
            match=f"expected parts, file:NAME.csv, seed:N or held-out:N .*, got '{split}'",
        ):
            read(animals, split, "train")
    with pytest.raises(
        DataError, match=r"part of folder animals seed:1: expected .* train, val.*, got 'dev'"
    ):
        read(animals, "seed:1", "dev")
    with pytest.raises(DataError, match="animals has none of the folders train, val, test"):
        read(animals, "parts", "train")


def test_a_class_in_two_parts_and_a_missing_part_are_refused(parts: Path) -> None:
    shutil.rmtree(parts / "animals" / "val")
    with pytest.raises(DataError, match=r"expected one of train, test .*, got 'val'"):
        read(parts, "parts", "val")

    write_classes(parts / "animals" / "val", ("ape",))
    with pytest.raises(DataError, match=r"class 'ape' in .* is in train and in val; each"):
        read(parts, "parts", "train")


def test_no_folder_a_missing_one_and_one_elsewhere_are_refused(animals: Path) -> None:
    with pytest.raises(DataError, match=r"data.folder: data set folder needs a folder"):
        read(animals, "parts", "train", folder=None)
    with pytest.raises(
        DataError, match="plants: not a directory; expected one subdirectory per class"
    ):
        read(animals, "parts", "train", folder="plants")
    for folder in ("../data/animals", "/animals"):
        with pytest.raises(
            DataError, match=r"data.folder: expected a relative path without '..', got"
        ):
            read(animals, "seed:1", "train", folder=folder)
    with pytest.raises(
        DataError, match=r"split file: expected a relative path .*, got '../split.csv'"
    ):
        read(animals, "file:../split.csv", "train")


def test_many_images_are_decoded_in_order(tmp_path: Path) -> None:
    """More than one job's, so that their order is not the order in which threads end."""
    folder = tmp_path / "data" / "animals" / "test" / "ape"
    folder.mkdir(parents=True)
    for index in range(250):
        (folder / f"{index:03d}.png").write_bytes(picture(index, (2, 2)))
    decoded: list[tuple[int, int]] = []

    dataset = read(
        tmp_path / "data", "parts", "test", progress=lambda *counts: decoded.append(counts)
    )

    assert dataset.images[:, 0, 0, 0].tolist() == list(range(250))
    assert decoded == [(100, 250), (200, 250), (250, 250)]
