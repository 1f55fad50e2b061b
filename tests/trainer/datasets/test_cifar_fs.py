import io
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import InputSpec, Rescale, Resize, Rgb, cache_folder
from kshot.trainer.datasets import cifar_fs
from kshot.trainer.datasets.cifar_fs import CIFAR_SPLITS, CifarSplit
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.image_files import ReadFile
from kshot.trainer.datasets.reader import ClassFiles, Progress, decode_classes
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.datasets.splits import split_digest
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

REAL = Path(os.environ.get("KSHOT_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(
    not all((REAL / name).is_file() for name in cifar_fs.ARCHIVES.values()),
    reason="KSHOT_DATA names no folder with the archives of CIFAR-FS",
)
SPEC = InputSpec((3, 32, 32), (Rgb(), Resize(32, 32, "bilinear"), Rescale(1 / 255)))
# Class: part in CIFAR-FS, part in FC100, number of images.
CLASSES = {
    "apple": ("train", "train", 2),
    "baby": ("train", "test", 2),
    "crab": ("val", "val", 3),
    "worm": ("test", "train", 3),
}
SPLITS = {"cifar-fs": "bertinetto", "fc100": "oreshkin"}
Files = dict[str, bytes]


def picture(seed: int, kind: str = "WEBP") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format=kind, lossless=True)
    return stream.getvalue()


def files_of(*parts: str) -> Files:
    """Make the files of one archive."""
    rows = ["class,superclass,cifar_fs_split,fc100_split,images"]
    rows += [f"{name},things,{one},{other},{n}" for name, (one, other, n) in CLASSES.items()]
    made: Files = {"cifar_fs/classes.csv": "\n".join(rows).encode()}
    for number, (name, (part, _, count)) in enumerate(CLASSES.items()):
        if part in parts:
            for index in range(count):
                path = f"cifar_fs/{part}/{name}/{name}_{index}.webp"
                made[path] = picture(10 * number + index)
    return made


def write(folder: Path, archives: Mapping[str, Files]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, files in archives.items():
        with tarfile.open(folder / name, "w:xz") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def archives() -> dict[str, Files]:
    return {
        "cifar_fs_train.tar.xz": files_of("train"),
        "cifar_fs_valtest.tar.xz": files_of("val", "test"),
    }


def read(folder: Path, dataset: str, part: str, split: str | None = None) -> ImageDataset:
    data = Data(dataset, split or SPLITS[dataset], rotations=False)
    return read_dataset(data, folder, part, input_spec=SPEC)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the reader expect the few classes of this module."""
    splits = {}
    for column, (dataset, name) in enumerate(SPLITS.items()):
        parts: dict[str, tuple[str, ...]] = {}
        for class_name, row in CLASSES.items():
            part = (row[0], row[1])[column]
            parts[part] = (*parts.get(part, ()), class_name)
        splits[dataset] = CifarSplit(name, parts["val"], parts["test"], split_digest(parts))
    monkeypatch.setattr(cifar_fs, "CIFAR_SPLITS", splits)
    monkeypatch.setattr(cifar_fs, "UPSTREAM_IMAGE_COUNT", 3)


@pytest.mark.usefixtures("small")
def test_both_data_sets_come_from_the_same_archives(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", archives())

    found = {
        dataset: [read(folder, dataset, part).class_names for part in ("train", "val", "test")]
        for dataset in SPLITS
    }

    assert found["cifar-fs"] == [("apple", "baby"), ("crab",), ("worm",)]
    assert found["fc100"] == [("apple", "worm"), ("crab",), ("baby",)]
    train = read(folder, "fc100", "train")
    assert train.class_offsets.tolist() == [0, 2, 5]
    expected = np.asarray(Image.open(io.BytesIO(picture(31)))).transpose(2, 0, 1)
    assert np.array_equal(train.images[3].numpy(), expected)


@pytest.mark.usefixtures("small")
def test_archives_and_the_folder_extracted_from_them_give_the_same_data(tmp_path: Path) -> None:
    for path, content in {**files_of("train"), **files_of("val", "test")}.items():
        (tmp_path / "extracted" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "extracted" / path).write_bytes(content)
    packed = write(tmp_path / "packed", archives())

    for dataset in SPLITS:
        for part in ("train", "val", "test"):
            one = read(packed, dataset, part)
            other = read(tmp_path / "extracted", dataset, part)
            assert (one.digest, one.split_digest) == (other.digest, other.split_digest)


def write_upstream(folder: Path) -> Path:
    for number, name in enumerate(CLASSES):
        (folder / "cifar100" / "data" / name).mkdir(parents=True)
        for index in range(3):
            path = folder / "cifar100" / "data" / name / f"{index}.png"
            path.write_bytes(picture(10 * number + index, "PNG"))
    return folder


@pytest.mark.usefixtures("small")
def test_the_folder_of_the_authors_gives_whole_classes(tmp_path: Path) -> None:
    """The classes that have all their images in the archives are the same there."""
    packed = write(tmp_path / "packed", archives())
    folder = write_upstream(tmp_path / "upstream")

    for dataset in SPLITS:
        one, other = read(folder, dataset, "val"), read(packed, dataset, "val")
        assert (one.digest, one.split_digest) == (other.digest, other.split_digest)
        assert read(folder, dataset, "train").class_offsets.tolist() == [0, 3, 6]
    (folder / "cifar100" / "data" / "worm" / "0.png").unlink()
    with pytest.raises(DataError, match=r"class worm of cifar-fs in .*: expected 3 images, got 2"):
        read(folder, "cifar-fs", "test")
    (folder / "cifar100" / "data" / "worm").rename(folder / "cifar100" / "data" / "wasp")
    with pytest.raises(DataError, match="data does not have the classes of fc100's split oreshkin"):
        read(folder, "fc100", "test")


def test_the_published_splits_have_their_numbers_of_classes() -> None:
    for dataset, counts in (("cifar-fs", (16, 20)), ("fc100", (20, 20))):
        split = CIFAR_SPLITS[dataset]
        assert (len(set(split.val)), len(set(split.test))) == counts
        assert not set(split.val) & set(split.test)


@pytest.mark.usefixtures("small")
def test_cifar_fs_needs_the_archive_of_its_part_alone(tmp_path: Path) -> None:
    made = archives()
    made.pop("cifar_fs_train.tar.xz")
    folder = write(tmp_path / "data", made)

    assert read(folder, "cifar-fs", "test").class_names == ("worm",)
    with pytest.raises(
        DataError, match=r"has no cifar_fs_train.tar.xz and no folder cifar_fs; provide"
    ):
        read(folder, "cifar-fs", "train")
    with pytest.raises(
        DataError, match=r"has no cifar_fs_train.tar.xz and no folder cifar_fs; provide"
    ):
        read(folder, "fc100", "test")


def spoil(made: Files) -> None:
    made["cifar_fs/test/worm/worm_1.webp"] = b"no picture"


def leave_out_an_image(made: Files) -> None:
    made.pop("cifar_fs/test/worm/worm_1.webp")


def leave_out_the_table(made: Files) -> None:
    made.pop("cifar_fs/classes.csv")


def edit(old: str, new: str) -> Callable[[Files], None]:
    def change(made: Files) -> None:
        text = made["cifar_fs/classes.csv"].decode()
        made["cifar_fs/classes.csv"] = text.replace(old, new).encode()

    return change


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil, r"test/worm/worm_1.webp in .* is text, not a PNG, JPEG or WebP image"),
        (leave_out_an_image, r"class worm of cifar-fs in .*: expected 3 images, got 2"),
        (leave_out_the_table, r"cifar_fs_valtest.tar.xz has no cifar_fs/classes.csv; provide"),
        (
            edit("class,superclass", "superclass,class"),
            r"expected the columns 'class,superclass,cifar_fs",
        ),
        (edit("crab", "worm"), r"line 5: class 'worm' is named twice"),
        (edit("worm", "wasp"), r"does not have the classes of cifar-fs's split bertinetto"),
        (edit("val,val,3", "val,val,many"), r"line 4: expected a number of images, got 'many'"),
    ],
)
def test_what_is_damaged_or_incomplete_is_refused(
    tmp_path: Path, damage: Callable[[Files], None], message: str
) -> None:
    made = archives()
    damage(made["cifar_fs_valtest.tar.xz"])

    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "data", made), "cifar-fs", "test")
    assert not list(cache_folder().glob("*"))


@pytest.mark.usefixtures("small")
def test_no_changed_byte_of_an_archive_gives_other_images(tmp_path: Path) -> None:
    """xz has checksums: the archive is refused, or the change was of no consequence."""
    folder = write(tmp_path / "data", archives())
    path = folder / "cifar_fs_valtest.tar.xz"
    whole = path.read_bytes()
    digest = read(folder, "cifar-fs", "val").digest
    refused = 0

    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert read(folder, "cifar-fs", "val").digest == digest
        except DataError as error:
            assert "truncated, or not a tar.xz archive" in str(error)
            refused += 1
    assert refused > 0
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"valtest.tar.xz: truncated, or not a tar.xz archive"):
        read(folder, "cifar-fs", "val")


@pytest.mark.usefixtures("small")
def test_unknown_splits_and_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="split of fc100: expected one of oreshkin, got 'bertinetto'"
    ):
        read(tmp_path, "fc100", "train", "bertinetto")
    with pytest.raises(
        DataError, match="part of cifar-fs: expected one of train, val, test, got 'dev'"
    ):
        read(tmp_path, "cifar-fs", "dev")


@needs_data
def test_the_real_archives_have_the_classes_and_counts_of_both_splits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All files are counted, and the first ten of each class decoded."""
    counts: dict[str, list[int]] = {}

    def decode_ten(
        files: ClassFiles, file: ReadFile, spec: InputSpec, progress: Progress | None
    ) -> ImageDataset:
        counts[files.name] = [len(names) for names in files.classes.values()]
        ten = {name: names[:10] for name, names in files.classes.items()}
        return decode_classes(replace(files, classes=ten), file, spec, progress)

    monkeypatch.setattr(cifar_fs, "decode_classes", decode_ten)
    monkeypatch.setattr(cifar_fs, "_members", cache(cifar_fs._members))  # unpacking takes seconds
    train, val, test = (
        read(REAL, dataset, part)
        for dataset, part in (("cifar-fs", "train"), ("cifar-fs", "val"), ("fc100", "test"))
    )

    assert counts["cifar-fs bertinetto train"] == [300] * 64
    assert counts["cifar-fs bertinetto val"] == [600] * 16
    # Of FC100's 20 test classes 11 are for training in CIFAR-FS, and so have half their images.
    assert sorted(counts["fc100 oreshkin test"]) == [300] * 11 + [600] * 9
    assert train.split_digest == val.split_digest != test.split_digest
    assert val.images.shape == (160, 3, 32, 32)
    assert 0.3 < float(val.images.float().mean()) / 255 < 0.7
