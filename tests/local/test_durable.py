from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kshot.local import replace_file, replacing


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def test_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a longer content than the next")

    replace_file(path, b"next")

    assert path.read_bytes() == b"next"
    assert names(tmp_path) == ["file"]


def test_error_keeps_what_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError

    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


def test_new_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "file", b"")
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_killed_writers_leave_one_file(tmp_path: Path) -> None:
    """Whoever is killed again and again must not fill the disk; the next write clears up."""
    path = tmp_path / "file"
    program = (
        "import os, pathlib, sys\nfrom kshot.local import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as file:\n    file.write(b'half')\n"
        "    file.flush()\n    os.kill(os.getpid(), 9)\n"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(path)], check=False)
        assert names(tmp_path) == [".file.partial"]

    replace_file(path, b"whole")

    assert path.read_bytes() == b"whole"
    assert names(tmp_path) == ["file"]


def test_writers_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    threads = [threading.Thread(target=replace_file, args=(path, each)) for each in contents]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert path.read_bytes() in contents
    assert names(tmp_path) == ["file"]


def test_partial_link_is_not_followed(tmp_path: Path) -> None:
    """In a folder that others can write to, a link must not lead the content elsewhere."""
    (tmp_path / ".file.partial").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic"):
        replace_file(tmp_path / "file", b"content")

    assert not (tmp_path / "elsewhere").exists()
