"""No stream stops a command, and a result is never lost to one."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from kshot.local.streams import Outlet

# Python's own `preexec_fn` forks: threads of gRPC or JAX, of earlier tests, would not survive.
BECOME = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
# A command with a result and talk, as `kshot` runs it.
PROGRAM = """
import os, sys
import click
from kshot.local import safe_streams
with safe_streams() as stdout:
    click.echo("working", err=True)
    print(sys.argv[1].encode().decode("unicode_escape"))
    click.echo("more")
    sys.stdout.flush()
    code = 3 if stdout.missed else 0
    click.echo(stdout.rest() + stdout.why() if code else "fine", err=True)
opened = open(os.devnull)
sys.exit(code + (opened.fileno() < 3))
"""


def run(
    result: str = "am-1",
    setting: Mapping[str, str] | None = None,
    *,
    stdout: int | None = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
    before: str = "",
) -> tuple[int, bytes, bytes]:
    """Run the program, in a process that ran `before`; return its code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", before + BECOME, PROGRAM, result],
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **(setting or {})},
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout or b"", done.stderr or b""


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "K\u00e4fer \u732b".encode()),
        ({"PYTHONIOENCODING": "ascii"}, rb"K\xe4fer \u732b"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, b"K\xe4fer \\u732b"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, rb"K\xe4fer \u732b"),
        ({"LC_ALL": "C"}, "K\u00e4fer \u732b".encode()),
    ],
)
def test_characters_that_the_terminal_lacks_are_escaped(
    setting: dict[str, str], shown: bytes
) -> None:
    code, out, err = run(r"K\u00e4fer \u732b", {"PYTHONIOENCODING": "", **setting})

    assert (code, out) == (0, shown + b"\nmore\n")
    assert err == b"working\nfine\n"


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ((0,), b"am-1\nmore\n", b"working\nfine\n"),
        ((1,), b"", b"working\nam-1\nmore\nclosed\n"),
        ((2,), b"am-1\nmore\n", b""),
        ((0, 1, 2), b"", b""),
    ],
)
def test_closed_streams(closed: tuple[int, ...], out: bytes, err: bytes) -> None:
    """Nothing else of the program gets their numbers, and stdout's result is on stderr."""
    before = f"import os; list(map(os.close, {closed}))\n"

    assert run(before=before) == (3 if 1 in closed else 0, out, err)


def test_a_full_disk(tmp_path: Path) -> None:
    """A file that may not grow stands for it; what did not fit is said whole."""
    before = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2, 2))\n"
    )
    with (tmp_path / "out").open("wb") as out:
        code, _, err = run(stdout=out.fileno(), before=before)

    assert code == 3
    assert err == b"working\nam-1\nmore\nFile too large\n"


def test_a_reader_that_has_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        assert run(stdout=write) == (3, b"", b"working\nam-1\nmore\nits reader has gone\n")
        assert run(stderr=write) == (0, b"am-1\nmore\n", b"")
        assert run(stdout=write, stderr=write)[0] == 3
    finally:
        os.close(write)


def test_a_reader_that_takes_a_part_hears_no_more() -> None:
    """As `head -1` of a long list; the beginning, with the id of a result, is said again."""
    long = "am-1 " + "x" * 300_000
    read, write = os.pipe()
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, long[:100_000]], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    os.read(read, 10)
    os.close(read)
    _, err = started.communicate(timeout=60)

    assert started.returncode == 3
    assert err.startswith(b"working\nam-1 xxx")
    assert len(err) < 1100


def test_a_slow_reader_of_a_pipe_that_does_not_block() -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETFL, os.O_NONBLOCK)
    os.write(write, b"." * fcntl.fcntl(write, fcntl.F_GETPIPE_SZ))
    got = bytearray()

    def consume() -> None:
        while chunk := os.read(read, 4096):
            got.extend(chunk)

    reader = threading.Thread(target=consume)
    timer = threading.Timer(0.2, reader.start)
    timer.start()
    code, _, err = run(stdout=write)
    os.close(write)
    timer.join()
    reader.join()
    os.close(read)

    assert (code, err) == (0, b"working\nfine\n")
    assert bytes(got).strip(b".") == b"am-1\nmore\n"


def test_talk_that_nobody_hears_is_not_kept() -> None:
    """A server logs for ever."""
    outlet = Outlet(-1, OSError(9, "Bad file descriptor"), 0)

    assert outlet.write(b"some words") == 10
    assert (outlet.missed, outlet.rest(), outlet.why()) == (b"", "", "closed")
