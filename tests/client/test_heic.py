"""Photographs of phones are converted where a reader is installed, and named where none is."""

from __future__ import annotations

import io
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from kshot.client import InputError
from kshot.client.commands.folder import check_files, read_class_folders
from kshot.client.inputs import read_images
from kshot.client.shrinking import SMALLEST_SIDE, any_large

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"


@pytest.fixture
def no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide a reader that is installed."""
    monkeypatch.setattr("kshot.client.heic.find_spec", lambda _: None)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that reads a red picture from what does not end with `damaged`."""

    class Opened:
        def __init__(self, stream: io.BytesIO) -> None:
            if stream.getvalue().endswith(b"damaged"):
                raise ValueError("Invalid input")

        def to_pillow(self) -> Image.Image:
            return Image.new("RGB", (2 * SMALLEST_SIDE, SMALLEST_SIDE), "red")

    module = ModuleType("pillow_heif")
    module.__spec__ = ModuleSpec("pillow_heif", None)
    module.open_heif = Opened  # type: ignore[attr-defined] # as the package does
    monkeypatch.setitem(sys.modules, "pillow_heif", module)


@pytest.mark.usefixtures("reader")
def test_a_photograph_becomes_a_jpeg(tmp_path: Path) -> None:
    """It counts as large, so that a server is asked how large its models need it."""
    path = tmp_path / "a.heic"
    path.write_bytes(HEIC)
    assert any_large([HEIC])
    assert any_large([path])

    for side, size in ((0, (2 * SMALLEST_SIDE, SMALLEST_SIDE)), (64, (128, 64))):
        sent = read_images([HEIC, path], side)
        assert isinstance(sent, tuple)
        for content in sent:
            with Image.open(io.BytesIO(content)) as image:
                assert (image.format, image.size) == ("JPEG", size)


@pytest.mark.usefixtures("reader")
def test_commands_take_photographs_and_damage_is_told(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IMG_1.HEIC").write_bytes(HEIC)

    files = read_class_folders(tmp_path).files

    assert [path.name for path in files] == ["IMG_1.HEIC"] * 2
    check_files(files)
    with pytest.raises(InputError, match="a HEIC file that cannot be read: Invalid input"):
        read_images([HEIC + b"damaged"])


@pytest.mark.usefixtures("no_reader")
def test_without_a_reader_the_remedy_is_said(tmp_path: Path) -> None:
    path = tmp_path / "dog" / "a.heic"
    path.parent.mkdir()
    path.write_bytes(HEIC)

    for refuse in (
        lambda: read_images([HEIC]),
        lambda: check_files([path]),
        lambda: read_class_folders(tmp_path),
    ):
        with pytest.raises(InputError, match=r"a HEIC file; .*pip install pillow-heif"):
            refuse()
