"""`kshot` itself: what it loads, and how each kind of failure ends."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import grpc
import pytest

from kshot import __main__ as program
from kshot.client.errors import KshotError, Problem
from kshot.command import table
from kshot.local import pip_install

ROOT = Path(__file__).parents[2]
SOURCES = "proto:bundle:learner:trainer:server:client:benchmarks"


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install two entry points of third parties, one of which does not exist."""
    group = table.ENTRY_POINT_GROUP
    points = metadata.EntryPoints(
        [
            metadata.EntryPoint("chart", f"{__name__}:chart", group),
            metadata.EntryPoint("gone", "nowhere_at_all:command", group),
            metadata.EntryPoint("serve", "nowhere_at_all:command", group),
        ]
    )
    monkeypatch.setattr(metadata, "entry_points", lambda group: points.select(group=group))


def command_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `kshot models` raise."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(table, "_load", lambda _name, _entry: failing)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from kshot.__main__ import main\n"
        f"assert main({arguments}) == 0\n"
        "heavy = {'torch', 'grpc', 'numpy', 'onnxruntime', 'rich', 'PIL', 'kshot.server'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stderr.strip() == "[]"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--help"]) == 0

    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in table.COMMANDS)


def test_runs_from_the_sources_without_installing(tmp_path: Path) -> None:
    """`-S` leaves out the environment's packages; click alone is put back on the path."""
    library = Path(click.__file__).parent
    (tmp_path / "click").symlink_to(library)
    path = [str(tmp_path), *(str(ROOT / root) for root in SOURCES.split(":"))]
    environment = {**os.environ, "PYTHONPATH": ":".join(path)}

    done = subprocess.run(
        [sys.executable, "-S", "-m", "kshot", "--version"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("kshot ")
    assert "unknown" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "unknown command 'trian': did you mean `train`?"),
        (["xyzzy"], "unknown command 'xyzzy': `kshot --help` lists the commands"),
        (["--frob"], "--frob"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(arguments) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("kshot: ")
    assert words in said.err
    assert said.err.count("\n") == 1


def test_no_command_shows_the_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert "Commands:" in said.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (click.ClickException("it\nfailed"), 1, "kshot: it failed\n"),
        (click.UsageError("used wrongly"), 2, "kshot: used wrongly\n"),
        (FileNotFoundError(2, "No such file", "a.png"), 1, "kshot: a.png: No such file\n"),
        (ModuleNotFoundError("No module", name="torch"), 1, "not on the Python path\n"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "no"), 2, "'\\udcff' is not valid text\n"),
        (KeyboardInterrupt(), 130, "kshot: interrupted\n"),
    ],
)
def test_a_failure_of_a_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    command_that_raises(monkeypatch, error)

    assert program.main(["models"]) == code
    assert capsys.readouterr().err.strip("\n").endswith(line.strip("\n"))


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that_raises(monkeypatch, ZeroDivisionError("a bug"))

    with pytest.raises(ZeroDivisionError, match="a bug"):
        program.main(["models"])


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    script = "import sys; from kshot.__main__ import main; sys.exit(main(['--help']))"
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)

    assert done.stderr == ""
    assert done.returncode == 1


def test_a_missing_extra_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_module: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("importlib.import_module", refuse)

    assert program.main(["train"]) == 1
    assert capsys.readouterr().err == (
        f"kshot: `kshot train` needs 'torch', which is not installed: {pip_install('train')}\n"
    )


@click.command()
def chart() -> None:
    """Stand for a third party's command."""
    click.echo("charted")


@pytest.mark.usefixtures("point")
def test_a_third_party_adds_a_command_and_replaces_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.main(["chart"]) == 0
    assert capsys.readouterr().out == "charted\n"
    assert program.main(["gone"]) == 1
    assert "nowhere_at_all" in capsys.readouterr().err
    assert program.main(["--help"]) == 0
    assert capsys.readouterr().out.count("serve ") == 1


@pytest.mark.parametrize(
    ("status", "text", "shown"),
    [
        (grpc.StatusCode.INTERNAL, "it failed", "kshot: it failed (request id r-1)\n"),
        (grpc.StatusCode.INTERNAL, "r-1 failed", "kshot: r-1 failed\n"),
        (grpc.StatusCode.NOT_FOUND, "no such id", "kshot: no such id\n"),
    ],
)
def test_a_fault_of_the_server_has_its_request_id(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: grpc.StatusCode,
    text: str,
    shown: str,
) -> None:
    command_that_raises(monkeypatch, KshotError(text, Problem(status, request_id="r-1")))

    assert program.main(["models"]) == 1
    assert capsys.readouterr().err == shown
