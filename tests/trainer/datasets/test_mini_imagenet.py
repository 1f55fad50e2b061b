import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kshot.bundle import InputSpec, Rescale, Resize, Rgb
from kshot.trainer.datasets import mini_imagenet
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.datasets.splits import split_digest
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

SPEC = InputSpec((3, 84, 84), (Rgb(), Resize(84, 84, "bilinear"), Rescale(1 / 255)))
CLASSES = {"train": ("n01", "n03", "n05"), "val": ("n02",), "test": ("n04", "n06")}
IMAGE_COUNT = 3


def picture(wnid: str, index: int) -> bytes:
    """Draw a JPEG of a size of its own."""
    stream = io.BytesIO()
    color = (40 * int(wnid[1:]), 80 * index, 0)
    Image.new("RGB", (100 + index, 60), color).save(stream, format="JPEG")
    return stream.getvalue()


def write_folders(data_folder: Path, name: str = "mini-imagenet") -> Path:
    for part, wnids in CLASSES.items():
        for wnid in wnids:
            folder = data_folder / name / part / wnid
            folder.mkdir(parents=True)
            for index in range(IMAGE_COUNT):
                (folder / f"{wnid}{index}.jpg").write_bytes(picture(wnid, index))
    return data_folder


def write_lists(data_folder: Path, name: str = "mini-imagenet", prefix: str = "ravi_") -> Path:
    folder = data_folder / name
    (folder / "images").mkdir(parents=True)
    for part, wnids in CLASSES.items():
        rows = ["filename,label"]
        for wnid in wnids:
            for index in range(IMAGE_COUNT):
                rows.append(f"{wnid}{index}.jpg,{wnid}")
                (folder / "images" / f"{wnid}{index}.jpg").write_bytes(picture(wnid, index))
        (folder / f"{prefix}{part}.csv").write_text("\n".join(rows) + "\n")
    return data_folder


def read(data_folder: Path, part: str, split: str = "ravi") -> ImageDataset:
    data = Data("mini-imagenet", split, rotations=False)
    return read_dataset(data, data_folder, part, input_spec=SPEC)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the reader expect the few classes of this module."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mini_imagenet, "IMAGE_COUNT", IMAGE_COUNT)
    monkeypatch.setattr(mini_imagenet, "SPLIT_DIGEST", split_digest(CLASSES))


def test_class_folders_and_lists_give_the_same_data(tmp_path: Path) -> None:
    folders = write_folders(tmp_path / "folders", "miniimagenet")
    lists = write_lists(tmp_path / "lists")
    plain_lists = write_lists(tmp_path / "plain", "miniimagenet", prefix="")
    for part, wnids in CLASSES.items():
        found = [read(folder, part) for folder in (folders, lists, plain_lists)]
        assert len({(dataset.digest, dataset.split_digest) for dataset in found}) == 1
        assert found[0].class_names == wnids
        assert found[0].images.shape == (IMAGE_COUNT * len(wnids), 3, 84, 84)


def test_lists_may_be_apart_from_the_images(tmp_path: Path) -> None:
    folder = write_lists(tmp_path / "data")
    (folder / "splits" / "miniimagenet").mkdir(parents=True)
    for path in (folder / "mini-imagenet").glob("*.csv"):
        path.replace(folder / "splits" / "miniimagenet" / path.name)

    assert read(folder, "test").class_names == CLASSES["test"]
    (folder / "splits" / "miniimagenet" / "ravi_val.csv").unlink()
    with pytest.raises(DataError, match=r"but neither ravi_val.csv nor val.csv; provide"):
        read(folder, "test")


def write_archives(data_folder: Path) -> Path:
    """Pack each part of the folders, as `mini-imagenet/<part>/...`."""
    data_folder.mkdir()
    source = write_folders(data_folder / "source")
    for part in CLASSES:
        with tarfile.open(data_folder / f"mini_imagenet_{part}.tar.xz", "w:xz") as archive:
            archive.add(source / "mini-imagenet" / part, f"mini-imagenet/{part}")
    shutil.rmtree(source)
    return data_folder


def test_archives_give_the_same_data_and_are_unpacked_once(tmp_path: Path) -> None:
    archives = write_archives(tmp_path / "archives")
    folders = write_folders(tmp_path / "folders")
    for part in CLASSES:
        assert read(archives, part).digest == read(folders, part).digest

    (unpacked,) = (tmp_path / "cache" / "kshot").glob("unpacked-*")
    before = unpacked.stat().st_mtime_ns
    read(archives, "test")
    assert unpacked.stat().st_mtime_ns == before


def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archives = write_archives(tmp_path / "archives")
    archive = archives / "mini_imagenet_val.tar.xz"
    archive.write_bytes(archive.read_bytes()[:-100])

    with pytest.raises(DataError, match=r"val.tar.xz: truncated, or not a tar archive .*again"):
        read(archives, "test")
    assert not list((tmp_path / "cache" / "kshot").glob("unpacked-*"))


def test_archives_of_something_else_are_refused(tmp_path: Path) -> None:
    archives = write_archives(tmp_path / "archives")
    archive = archives / "mini_imagenet_val.tar.xz"
    archive.write_bytes((archives / "mini_imagenet_test.tar.xz").read_bytes())

    with pytest.raises(DataError, match=r"expected the classes of .* 0 val, 2 test"):
        read(archives, "test")


def leave_out_an_image(folder: Path) -> None:
    (folder / "val" / "n02" / "n021.jpg").unlink()


def leave_out_a_class(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "n05")


def leave_out_a_part(folder: Path) -> None:
    shutil.rmtree(folder / "val")


def move_a_class(folder: Path) -> None:
    (folder / "train" / "n05").rename(folder / "test" / "n05")


def spoil(folder: Path) -> None:
    (folder / "test" / "n04" / "n041.jpg").write_bytes(picture("n04", 1)[:300])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (leave_out_an_image, r"class n02 in .*val: expected 3 images, got 2"),
        (leave_out_a_class, r"expected the classes of mini-ImageNet's .* \(2 train, 1 val, 2 test"),
        (leave_out_a_part, r"expected the classes of mini-ImageNet's .* \(3 train, 0 val, 2 test"),
        (move_a_class, r"expected the classes of mini-ImageNet's .* \(2 train, 1 val, 3 test"),
        (spoil, r"test/n04/n041.jpg in .* is damaged"),
    ],
)
def test_damaged_and_incomplete_folders_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_folders(tmp_path / "data")
    damage(folder / "mini-imagenet")

    with pytest.raises(DataError, match=message):
        read(folder, "test")


def remove_an_image(folder: Path) -> None:
    (folder / "images" / "n021.jpg").unlink()


def add_to(name: str, row: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(f"{row}\n")

    return change


def change_the_header(folder: Path) -> None:
    path = folder / "ravi_val.csv"
    path.write_text(path.read_text().replace("filename", "file"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_an_image, r"ravi_val.csv, line 3: .*images has no image n021.jpg"),
        (add_to("ravi_val.csv", "n010.jpg,n02"), r"line 5: image 'n010.jpg' appears twice"),
        (add_to("ravi_val.csv", "more.jpg,n01"), r"line 5: class 'n01' is also in train"),
        (change_the_header, r"expected the columns 'filename,label', got 'file,label'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_lists(tmp_path / "data")
    damage(folder / "mini-imagenet")

    with pytest.raises(DataError, match=message):
        read(folder, "train")


def test_a_missing_folder_an_unknown_split_and_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder mini-imagenet or miniimagenet; provide <part>"):
        read(tmp_path, "train")
    with pytest.raises(
        DataError, match="split of mini-imagenet: expected one of ravi, got 'seed:1'"
    ):
        read(tmp_path, "train", "seed:1")
    with pytest.raises(
        DataError, match=r"part of mini-imagenet: expected one of train, val, test .*, got 'dev'"
    ):
        read(write_folders(tmp_path), "dev")
