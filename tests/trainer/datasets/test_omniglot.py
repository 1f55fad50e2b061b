import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kshot.bundle import Grayscale, InputSpec, Rescale, Resize, cache_folder
from kshot.trainer.datasets import omniglot, reader
from kshot.trainer.datasets.dataset import ImageDataset, names_digest
from kshot.trainer.datasets.image_files import ReadFile
from kshot.trainer.datasets.omniglot import reptile_split
from kshot.trainer.datasets.reader import ClassFiles, Progress, decode_classes
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.recipe.recipe import Data

REAL = Path(os.environ.get("KSHOT_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(
    not (REAL / "omniglot_images_background.zip").is_file(),
    reason="KSHOT_DATA names no folder with Omniglot's archives",
)
# Two alphabets a folder, as Omniglot in small: sorting by alphabet mixes the folders.
CHARACTERS = {
    "images_background": ["Beta/character01", "Beta/character02", "Delta/character01"],
    "images_evaluation": ["Alpha/character01", "Gamma/character01", "Gamma/character02"],
}
OMNIGLOT_INPUT = load_image_recipe("omniglot-5way").input
DRAWING_COUNT = 2
TRAIN_COUNT = 4


def read(
    folder: Path,
    part: str,
    *,
    split: str = "reptile",
    rotations: bool = False,
    input_spec: InputSpec = OMNIGLOT_INPUT,
    progress: Progress | None = None,
) -> ImageDataset:
    data = Data("omniglot", split, rotations)
    return read_dataset(data, folder, part, input_spec=input_spec, progress=progress)


def drawing(seed: int) -> bytes:
    """Draw a 105x105 picture in mode "1", as Omniglot's: paper True, ink False."""
    paper = np.random.default_rng(seed).random((105, 105)) < 0.8
    stream = io.BytesIO()
    Image.fromarray(paper).save(stream, format="PNG")
    return stream.getvalue()


def drawings() -> dict[str, dict[str, bytes]]:
    made: dict[str, dict[str, bytes]] = {}
    seed = 0
    for folder, characters in CHARACTERS.items():
        made[folder] = {}
        for character in characters:
            for number in range(1, DRAWING_COUNT + 1):
                seed += 1
                made[folder][f"{folder}/{character}/{seed:04d}_{number:02d}.png"] = drawing(seed)
    return made


def write_archives(folder: Path, made: dict[str, dict[str, bytes]], prefix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for name, files in made.items():
        with zipfile.ZipFile(folder / f"{prefix}{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in files.items():
                archive.writestr(path, data)
    return folder


def write_folders(folder: Path, made: dict[str, dict[str, bytes]]) -> Path:
    for files in made.values():
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small_omniglot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the reader expect the few characters of this module."""
    monkeypatch.setattr(omniglot, "FOLDERS", {name: len(of) for name, of in CHARACTERS.items()})
    monkeypatch.setattr(omniglot, "DRAWING_COUNT", DRAWING_COUNT)
    monkeypatch.setattr(omniglot, "TRAIN_CHARACTER_COUNT", TRAIN_COUNT)
    listed = [f"{folder}/{name}" for folder, names in CHARACTERS.items() for name in names]
    monkeypatch.setattr(omniglot, "VINYALS_VAL_ALPHABETS", ("Delta",))
    reptile = reptile_split(listed)
    vinyals = omniglot.vinyals_split(listed)
    digests = {
        "reptile": names_digest(reptile["train"] + reptile["test"]),
        "vinyals": names_digest(vinyals["train"] + vinyals["val"] + vinyals["test"]),
    }
    monkeypatch.setattr(omniglot, "SPLIT_DIGESTS", digests)


@pytest.mark.usefixtures("small_omniglot")
def test_training_characters_are_rotated_and_test_characters_are_not(tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "data", drawings())

    train = read(folder, "train", rotations=True)
    unrotated = read(folder, "train")
    test = read(folder, "test", rotations=True)

    assert (train.class_count, unrotated.class_count, test.class_count) == (16, 4, 2)
    assert train.images.shape == (32, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert set(unrotated.class_names).isdisjoint(test.class_names)
    assert torch.equal(train.images[0:2], unrotated.images[0:2])


@pytest.mark.usefixtures("small_omniglot")
def test_paper_is_255_and_every_pixel_is_the_nearest_one(tmp_path: Path) -> None:
    made = drawings()
    test = read(write_archives(tmp_path / "data", made), "test")

    for index, character in enumerate(test.class_names):
        folder = character.split("/")[0]
        files = sorted(name for name in made[folder] if name.startswith(f"{character}/"))
        for number, name in enumerate(files):
            paper = np.asarray(Image.open(io.BytesIO(made[folder][name])))
            nearest = np.floor((np.arange(28) + 0.5) * 105 / 28).astype(int)
            expected = torch.from_numpy(paper[np.ix_(nearest, nearest)]).to(torch.uint8) * 255
            assert torch.equal(test.images[index * DRAWING_COUNT + number, 0], expected)


@pytest.mark.usefixtures("small_omniglot")
def test_archives_upstreams_names_and_folders_give_the_same_data(tmp_path: Path) -> None:
    made = drawings()

    digests = {
        read(write_archives(tmp_path / "ours", made, "omniglot_"), "test").digest,
        read(write_archives(tmp_path / "upstream", made), "test").digest,
        read(write_folders(tmp_path / "extracted", made), "test").digest,
    }

    assert len(digests) == 1


@pytest.mark.usefixtures("small_omniglot")
def test_images_are_decoded_once_and_again_when_the_cache_is_damaged(tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "data", drawings())
    decoded: list[tuple[int, int]] = []

    def digest() -> str:
        return read(
            folder, "train", progress=lambda done, total: decoded.append((done, total))
        ).digest

    first = digest()
    assert decoded == [(8, 8)]
    assert digest() == first
    assert len(decoded) == 1

    assert cache_folder().stat().st_mode & 0o077 == 0  # whatever the umask
    (cached,) = cache_folder().iterdir()
    content = bytearray(cached.read_bytes())
    content[-1] ^= 255
    cached.write_bytes(content)
    assert digest() == first
    assert len(decoded) == 2

    cached.write_bytes(content[:100])
    assert digest() == first
    assert len(decoded) == 3
    assert digest() == first
    assert len(decoded) == 3


@pytest.mark.usefixtures("small_omniglot")
def test_other_preprocessing_has_a_cache_of_its_own(tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "data", drawings())
    spec = InputSpec((1, 14, 14), (Grayscale(), Resize(14, 14, "box"), Rescale(1.0)))

    assert read(folder, "test").images.shape[2:] == (28, 28)
    assert read(folder, "test", input_spec=spec).images.shape[2:] == (14, 14)
    assert len(list(cache_folder().iterdir())) == 2


@pytest.mark.usefixtures("small_omniglot")
def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    folder = write_archives(tmp_path / "data", drawings())
    assert read(folder, "test").class_count == 2


def truncate(folder: Path) -> None:
    path = folder / "images_background.zip"
    path.write_bytes(path.read_bytes()[:-200])


def flip(folder: Path) -> None:
    path = folder / "images_evaluation.zip"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[3]
    content[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 255
    path.write_bytes(content)


def leave_out_a_character(folder: Path) -> None:
    made = drawings()
    made["images_background"] = {
        name: data
        for name, data in made["images_background"].items()
        if "Beta/character02" not in name
    }
    write_archives(folder, made)


def leave_out_a_drawing(folder: Path) -> None:
    made = drawings()
    made["images_evaluation"].pop(next(iter(made["images_evaluation"])))
    write_archives(folder, made)


def rename_an_alphabet(folder: Path) -> None:
    made = drawings()
    made["images_evaluation"] = {
        name.replace("Alpha", "Omega"): data for name, data in made["images_evaluation"].items()
    }
    write_archives(folder, made)


def spoil_a_picture(folder: Path) -> None:
    made = drawings()
    for name in made["images_evaluation"]:
        made["images_evaluation"][name] = b"no picture"
    write_archives(folder, made)


def remove_one(folder: Path) -> None:
    (folder / "images_evaluation.zip").unlink()


@pytest.mark.usefixtures("small_omniglot")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "images_background.zip: truncated, or not a ZIP archive"),
        (flip, "images_evaluation.zip is damaged at images_evaluation/"),
        (leave_out_a_character, "images_background in .*: expected 3 characters, got 2"),
        (leave_out_a_drawing, "Alpha/character01 in .*: expected 2 images, got 1"),
        (rename_an_alphabet, "do not have the names of Omniglot's"),
        (
            spoil_a_picture,
            r"images_evaluation/.*/character0\d/\d+_01.png in .* is .*not a PNG",
        ),
        (remove_one, "neither omniglot_images_evaluation.zip nor .*; name a folder, by"),
    ],
)
def test_damaged_and_incomplete_data_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_archives(tmp_path / "data", drawings())
    damage(folder)

    with pytest.raises(DataError, match=message):
        _ = [read(folder, part) for part in ("train", "test")]


@pytest.mark.usefixtures("small_omniglot")
def test_an_unreadable_file_in_a_folder_is_refused(tmp_path: Path) -> None:
    made = drawings()
    folder = write_folders(tmp_path / "data", made)
    path = folder / next(iter(made["images_background"]))
    path.unlink()
    path.mkdir()

    with pytest.raises(DataError, match=r"cannot read .*\.png: Is a directory"):
        _ = [read(folder, part) for part in ("train", "test")]


@pytest.mark.usefixtures("small_omniglot")
def test_files_that_are_no_drawings_are_passed_over(tmp_path: Path) -> None:
    made = drawings()
    clutter = {
        "images_background/.DS_Store": b"",
        "images_background/Beta/character01/._0001_01.png": b"",
        "__MACOSX/images_background/Beta/character01/0001_01.png": b"",
    }
    made["images_background"] |= clutter

    assert read(write_archives(tmp_path / "data", made), "test").class_count == 2


def test_a_missing_folder_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; .*KSHOT_DATA.*brendenlake/omniglot"):
        read(tmp_path / "none", "test")


@pytest.mark.usefixtures("small_omniglot")
def test_unknown_names_are_refused(tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "data", drawings())

    with pytest.raises(
        DataError, match="split of omniglot: expected one of reptile, vinyals, got 'lake'"
    ):
        read(folder, "test", split="lake")
    message = "part of omniglot reptile: expected one of train, test .*, got 'dev'"
    with pytest.raises(DataError, match=message):
        read(folder, "dev")


@pytest.mark.usefixtures("small_omniglot")
def test_validation_classes_of_reptile_are_training_characters_turned_over(tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "data", drawings())

    train, val, rotated = (
        read(folder, part, rotations=rotations)
        for part, rotations in (("train", False), ("val", True), ("train", True))
    )

    assert torch.equal(val.images, train.images.flip(3))
    assert val.class_names == tuple(f"{name}@mirrored" for name in train.class_names)
    assert torch.equal(val.class_offsets, train.class_offsets)
    assert val.split_digest == train.split_digest
    assert (val.name, train.name) == ("omniglot reptile val", "omniglot reptile train")
    trained = {image.numpy().tobytes() for image in rotated.images}
    assert trained.isdisjoint(image.numpy().tobytes() for image in val.images)


@pytest.mark.usefixtures("small_omniglot")
def test_vinyals_split_turns_the_characters_of_validation_and_test(tmp_path: Path) -> None:
    folder = write_archives(tmp_path / "data", drawings())

    train, rotated, val, test = (
        read(folder, part, split="vinyals", rotations=rotations)
        for part, rotations in (("train", False), ("train", True), ("val", False), ("test", False))
    )

    assert train.class_names == (
        "images_evaluation/Alpha/character01",
        "images_background/Beta/character01",
        "images_background/Beta/character02",
    )
    assert rotated.class_count == 12
    assert val.class_names == tuple(
        f"images_background/Delta/character01@{degrees}" for degrees in (0, 90, 180, 270)
    )
    assert test.class_count == 8
    assert len({dataset.split_digest for dataset in (train, rotated, val, test)}) == 1


@needs_data
def test_the_split_of_the_paper_is_reproduced_from_the_real_archives() -> None:
    """The lists were made by other code; the split's digest in ours is that of their bytes."""
    train = read(REAL, "train")
    test = read(REAL, "test")
    lists = REAL / "splits" / "omniglot"

    assert train.images.shape == (24_000, 1, 28, 28)
    assert test.images.shape == (8_460, 1, 28, 28)
    assert set(train.class_names).isdisjoint(test.class_names)
    # Ink covers a small part of the paper.
    assert 0.85 < float(test.images.float().mean()) / 255 < 0.95
    if lists.is_dir():
        for dataset, name in ((train, "train"), (test, "test")):
            listed = (lists / f"reptile_seed0_{name}.txt").read_text().split("\n")[:-1]
            assert list(dataset.class_names) == listed


@needs_data
def test_vinyals_split_is_reproduced_from_the_real_archives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its digest is that of lists that others made; here they are compared name by name.

    Of each character one drawing is decoded.
    """
    lists = REAL / "splits" / "omniglot"

    def decode_one(
        files: ClassFiles, file: ReadFile, spec: InputSpec, progress: Progress | None
    ) -> ImageDataset:
        assert {len(names) for names in files.classes.values()} == {20}
        one = {name: names[:1] for name, names in files.classes.items()}
        return decode_classes(replace(files, classes=one), file, spec, progress)

    monkeypatch.setattr(reader, "decode_classes", decode_one)
    for part, count in (("train", 1028), ("val", 172), ("test", 423)):
        dataset = read(REAL, part, split="vinyals")
        names = list(dict.fromkeys(name.split("@")[0] for name in dataset.class_names))
        assert len(names) == count
        assert dataset.class_count == (count if part == "train" else 4 * count)
        assert dataset.split_digest == omniglot.SPLIT_DIGESTS["vinyals"]
        if lists.is_dir():
            assert names == (lists / f"vinyals_{part}.txt").read_text().split("\n")[:-1]
