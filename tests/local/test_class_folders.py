"""Folders as people have them: what counts as an image, and where the classes are instead."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kshot.local.class_folders import ClassFolders, FolderError, list_classes

PNG = b"\x89PNG\r\n\x1a\n and more"


def make(folder: Path, *names: str, content: bytes = PNG) -> Path:
    """Write files in a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def found(folder: Path, *also: str) -> dict[str, list[str]]:
    """Return the names of each class's images."""
    return {
        name: [path.name for path in images]
        for name, images in list_classes(folder, also).classes.items()
    }


def refused(folder: Path) -> str:
    """Return the words of a refused folder, without the path of the test's own."""
    with pytest.raises(FolderError) as caught:
        list_classes(folder, remedies={"HEIC": "read it"})
    return str(caught.value).replace(f"{folder.parent}/", "")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of two classes."""
    return make(tmp_path / "pets", "cat/0.png", "cat/1.JPG", "dog/0.webp", "dog/no_suffix")


def test_the_content_decides_where_the_name_does_not(pets: Path) -> None:
    make(pets, "cat/download.bin")

    assert found(pets) == {
        "cat": ["0.png", "1.JPG", "download.bin"],
        "dog": ["0.webp", "no_suffix"],
    }


def test_what_systems_leave_is_passed_over(pets: Path) -> None:
    make(pets, "Thumbs.db", "cat/Thumbs.db", "dog/desktop.ini", "__MACOSX/cat/._0.png")
    make(pets, ".DS_Store", "cat/.DS_Store", "cat/.hidden/x.png", ".git/x/y.png")
    before: ClassFolders = list_classes(pets)

    assert sorted(before.classes) == ["cat", "dog"]
    assert before.remarks == (
        f"{pets}: passed over what is no image of a class: cat/Thumbs.db, dog/desktop.ini",
    )


def test_files_that_are_no_images_are_passed_over_with_a_remark(pets: Path) -> None:
    """Texts beside the class folders, as a license, need none."""
    make(pets, "labels.csv", content=b"some words")
    assert list_classes(pets).remarks == ()
    make(pets, "cat/notes.txt", content=b"some words")
    make(pets, "cat/old/2.png", "stray.png")
    make(pets, "cover.gif", content=b"GIF89a")
    os.mkfifo(pets / "dog" / "pipe.png")  # reading it would never end
    os.mkfifo(pets / "dog" / "pipe")

    listed = list_classes(pets)

    assert found(pets) == {"cat": ["0.png", "1.JPG"], "dog": ["0.webp", "no_suffix"]}
    (remark,) = listed.remarks
    assert remark.endswith(": cover.gif, stray.png, cat/notes.txt and 3 more")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.heic",
            b"\0\0\0\x1cftypheic",
            "a HEIC file; expected PNG, JPEG or WebP; read it, or convert it",
        ),
        ("a.gif", b"GIF89a", "a GIF file; expected PNG, JPEG or WebP; convert it to PNG or JPEG"),
        ("a.bmp", b"BM" + bytes(12) + b"\x28\0\0\0", "a BMP file"),
        ("a", b"II*\0 and more", "a TIFF file"),
        ("a.avif", b"\0\0\0\x1cftypavif", "an AVIF file"),
        ("a.svg", b'<?xml version="1.0"?>\n<!-- x -->\n<svg>', "an SVG file"),
        ("a.pdf", b"%PDF-1.7", "a PDF file"),
        ("a.NEF", b"MM\0* and more", "a camera RAW file"),
        ("a", b"II*\0\x10\0\0\0CR\2\0", "a camera RAW file"),
        ("a.cr3", b"\0\0\0\x18ftypcrx ", "a camera RAW file"),
        ("a.gif", b"", "a GIF file"),
        ("a.tiff", b"some text", "a TIFF file"),
    ],
)
def test_pictures_of_other_formats_do_not_go_missing(
    pets: Path, name: str, content: bytes, words: str
) -> None:
    make(pets, f"dog/{name}", content=content)

    assert re.search(rf"^pets/dog/{name}: {words}", refused(pets))
    make(pets, f"dog/b{name}", f"dog/c{name}", content=content)
    assert refused(pets).endswith("; 2 more files are not read either")


def test_a_format_that_the_caller_converts_is_an_image(pets: Path) -> None:
    make(pets, "dog/phone.HEIC", content=b"\0\0\0\x1cftypheic")

    assert found(pets, "HEIC")["dog"] == ["0.webp", "no_suffix", "phone.HEIC"]


def test_classes_further_down_are_found(tmp_path: Path) -> None:
    """As archives unpack, beside what a system adds to them."""
    make(tmp_path / "one", "archive/pets/cat/0.png", "archive/pets/dog/0.png", "__MACOSX/x/y/0.png")
    make(tmp_path / "two", "train/cat/0.png", "test/cat/0.png", "README.md")

    assert refused(tmp_path / "one") == (
        "one: expected one subdirectory of images per class, got them further down; name "
        "one/archive/pets"
    )
    assert refused(tmp_path / "two").endswith("further down; name two/test, two/train alone")


def test_a_folder_of_images_names_the_one_above(pets: Path, tmp_path: Path) -> None:
    make(tmp_path / "alone", "0.png", "1.png")

    assert refused(pets / "cat") == (
        f"cat: expected one subdirectory of images per class, got images; if they are those of one "
        f"class, name {pets}"
    )
    assert refused(tmp_path / "alone").endswith("move those of each class to a folder of their own")


def test_folders_that_hold_no_class(tmp_path: Path) -> None:
    empty = make(tmp_path / "empty", "x/a.txt", "y/b.txt", content=b"words")
    (tmp_path / "bare").mkdir()
    archive = make(tmp_path, "pets.zip") / "pets.zip"

    assert refused(empty).endswith("got no images in x, y")
    assert refused(tmp_path / "bare").endswith("subdirectory of images per class, got none")
    assert (
        refused(tmp_path / "none") == "none: no such directory: expected one subdirectory per class"
    )
    assert refused(archive) == "pets.zip: an archive; unpack it and name the folder that it holds"


def test_an_empty_class_is_refused(pets: Path) -> None:
    make(pets, "cow/young/0.png")
    assert refused(pets) == (
        "class folder pets/cow has no images; expected at least 1; move up those in "
        "pets/cow/young, or remove the folder"
    )
    (pets / "bee").mkdir()
    assert "class folder pets/bee has no images; expected at least 1; add some" in refused(pets)


def test_links_are_followed_and_dangling_ones_refused(pets: Path, tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "0.png")
    (pets / "cow").symlink_to(tmp_path / "elsewhere")
    (pets / "cat" / "2.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    assert {name: len(images) for name, images in found(pets).items()} == {
        "cat": 3,
        "cow": 1,
        "dog": 2,
    }

    (pets / "cat" / "3.png").symlink_to("gone.png")
    assert refused(pets).startswith("pets/cat/3.png: dangling link")
    (pets / "bee").symlink_to("bee")
    assert refused(pets).startswith("pets/bee: dangling link")


def test_classes_that_look_alike(pets: Path) -> None:
    """Letters may be classes that differ by case; two spellings of one word may not."""
    make(pets, "Cat/0.png")
    assert list_classes(pets).remarks == (f"{pets}: the classes Cat and cat differ by case alone",)

    make(pets, "K\u00e4fer/0.png", "Ka\u0308fer/0.png")
    assert "in two spellings of Unicode ('Ka\\u0308fer' and 'K\\xe4fer')" in refused(pets)


def test_names_that_are_not_utf8(pets: Path) -> None:
    """A file may have one; a class's name is sent."""
    make(pets, os.fsdecode(b"cat/\xe9.png"))
    assert len(found(pets)["cat"]) == 3

    (pets / "dog").rename(pets / os.fsdecode(b"\xe9"))
    assert refused(pets) == r"pets holds b'\xe9'; expected a name in UTF-8; rename it"
