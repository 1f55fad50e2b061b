"""Whatever a user names for a result is replaced whole, written into, or refused in words."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kshot.local import check_destination, destination, leads_to_stdout, write_file

CONTENT = b"the result" * 1000


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_replaces_a_file_with_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    path.chmod(0o640)

    write_file(path, CONTENT)

    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_links_are_followed_and_stay(tmp_path: Path, there: bool, relative: bool) -> None:
    """Also chains of them, and those to a file that is not there yet."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    target = tmp_path / "b" / "target"
    if there:
        target.write_bytes(b"before")
    (tmp_path / "a" / "inner").symlink_to(Path("../b/target") if relative else target)
    link = tmp_path / "link"
    link.symlink_to(Path("a/inner") if relative else tmp_path / "a" / "inner")

    check_destination(link)
    write_file(link, CONTENT)

    assert link.is_symlink()
    assert target.read_bytes() == CONTENT
    assert not target.is_symlink()
    assert names(tmp_path / "b") == ["target"]


def test_a_pipe_is_written_into_once_all_is_there(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()

    with pytest.raises(ZeroDivisionError), destination(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    with destination(path) as file:
        file.write(b"?" + CONTENT[1:])
        file.seek(0)
        file.write(CONTENT[:1])
    reader.join()

    assert got == [CONTENT]
    assert names(tmp_path) == ["pipe"]


def test_a_descriptor_is_written_into_where_it_stands(tmp_path: Path) -> None:
    """As `/dev/stdout` in a shell: a file behind it is not replaced, and goes on."""
    with (tmp_path / "log").open("wb") as log:
        log.write(b"before ")
        log.flush()
        link = tmp_path / "link"
        link.symlink_to(f"/proc/self/fd/{log.fileno()}")
        inode = os.fstat(log.fileno()).st_ino

        write_file(link, b"result ")
        write_file(Path(f"/dev/fd/{log.fileno()}"), b"after")

    assert (tmp_path / "log").read_bytes() == b"before result after"
    assert (tmp_path / "log").stat().st_ino == inode


@pytest.mark.parametrize("into_file", [True, False])
def test_stdout_holds_the_result_alone(tmp_path: Path, into_file: bool) -> None:
    program = (
        "import pathlib, sys\nfrom kshot.local import leads_to_stdout, write_file\n"
        "path = pathlib.Path('/dev/stdout')\nwrite_file(path, b'result')\n"
        "print(leads_to_stdout(path), file=sys.stderr)"
    )
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=out if into_file else subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=True,
        )

    assert ((tmp_path / "out").read_bytes() if into_file else done.stdout) == b"result"
    assert done.stderr == b"True\n"
    assert not leads_to_stdout(tmp_path / "out")
    assert not leads_to_stdout(tmp_path / "none")


def _read_only(path: Path) -> None:
    path.write_bytes(b"before")
    path.chmod(0o444)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (Path.mkdir, "place", "expected a file, got a directory"),
        (_read_only, "place", r"read-only.*chmod u\+w .*place"),
        (_socket, "place", "expected a file or a pipe, got a socket"),
        (_loop, "place", "symbolic links"),
        (lambda _: None, "no/such/place", r"there is no folder .*no/such; .* mkdir -p .*/no/such"),
        (Path.touch, "place/below", "expected a folder, .*place is a file"),
        (lambda path: path.symlink_to("gone/x"), "place", "there is no folder .*/gone; make"),
        (lambda _: None, "pla\0ce", "NUL"),
        (lambda _: None, "x" * 300, "too long"),
    ],
)
def test_other_places_are_refused_before_the_work(
    tmp_path: Path, make: Callable[[Path], None], name: str, words: str
) -> None:
    make(tmp_path / "place")
    before = names(tmp_path)

    for attempt in (check_destination, lambda path: write_file(path, CONTENT)):
        with pytest.raises(OSError, match=words) as caught:
            attempt(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)

    assert names(tmp_path) == before


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"before")

    def fill(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kshot.local.durable.os.fsync", fill)
    for name in ("file", "new"):
        with pytest.raises(OSError, match=re.escape("No space left on device")):
            write_file(tmp_path / name, CONTENT)

    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    """The hidden file beside it must not have a longer one."""
    path = tmp_path / ("x" * 255)

    write_file(path, CONTENT)

    assert names(tmp_path) == [path.name]


def test_a_reader_that_has_gone_is_told() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with pytest.raises(BrokenPipeError):
            write_file(Path(f"/proc/self/fd/{write}"), CONTENT)
    finally:
        os.close(write)
