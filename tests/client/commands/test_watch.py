"""`kshot watch`: a file is answered once, when it is complete, and none is lost."""

from __future__ import annotations

import io
import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from PIL import Image

from kshot.__main__ import main
from kshot.client import Client
from kshot.client.commands import images_below
from kshot.client.commands import watch as module
from kshot.client.commands.answers import Answer
from kshot.client.commands.classify import Question
from kshot.client.commands.images_below import find_images
from kshot.client.commands.watch import Inbox, watch
from kshot.client.errors import AdaptedModelNotFoundError
from kshot.local.image_formats import READ
from kshot.v1 import adaptation_pb2 as wire

if TYPE_CHECKING:
    from conftest import FakeServicer


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def model(address: str, servicer: FakeServicer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_SERVER", address)
    servicer.kept["am-0"] = wire.AdaptedModel(id="am-0", class_names=["cat", "dog"])


def test_a_file_counts_once_it_is_at_rest(tmp_path: Path) -> None:
    inbox, file = Inbox(tmp_path), tmp_path / "a.png"
    file.write_bytes(png()[:20])
    assert inbox.ready() == []
    file.write_bytes(png())
    assert inbox.ready() == []
    assert inbox.ready() == [file]
    inbox.finish([file])
    assert inbox.ready() == []

    file.write_bytes(png() + b"more")

    assert inbox.ready() == []
    assert inbox.ready() == [file]


@pytest.mark.parametrize("name", [".a.png", "a.png.part", "a.txt"])
def test_unfinished_and_other_files_do_not_count(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(png() if name != "a.txt" else b"text")

    assert Inbox(tmp_path).ready(at_once=True) == []


def test_once_answers_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).write_bytes(png())

    assert main(["watch", str(tmp_path), "--model", "am-0", "--once", "--json"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(Path(each["file"]).name, each["label"]) for each in lines] == [
        ("a.png", "cat"),
        ("b.png", "dog"),
    ]


def test_a_refused_file_is_said_and_fails_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_text("no image")

    assert main(["watch", str(tmp_path), "--model", "am-0", "--once"]) == 1

    said = capsys.readouterr()
    assert said.out.startswith("cat  0.750  ")
    assert "b.png: not an image" in said.err


def test_a_server_that_is_gone_loses_no_file(
    tmp_path: Path,
    client: Client,
    servicer: FakeServicer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It refuses all calls while the second file comes, and then answers again."""
    found: list[str] = []
    looks = iter(range(100))
    quota = ErrorInfo(reason="QUOTA_EXCEEDED", domain="kshot")

    def pass_time(_seconds: float) -> None:
        match next(looks):
            case 1:
                (tmp_path / "b.png").write_bytes(png())
                servicer.refuse(Code.RESOURCE_EXHAUSTED, "too much", quota)
            case 4:
                servicer.refusal = None
            case 8:
                raise KeyboardInterrupt

    def show(file: Path, _answer: Answer | str) -> None:
        found.append(file.name)

    monkeypatch.setattr(module.time, "sleep", pass_time)
    (tmp_path / "a.png").write_bytes(png())

    with suppress(KeyboardInterrupt):
        watch(client, Question("am-0"), Inbox(tmp_path), 0.1, show)

    assert found == ["a.png", "b.png"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("waiting: too much")
    assert said[1:] == ["the server answers again"]


def test_a_model_that_is_gone_ends_the_watch(tmp_path: Path, client: Client) -> None:
    with pytest.raises(AdaptedModelNotFoundError):
        watch(client, Question("am-9"), Inbox(tmp_path), 0.1, lambda _file, _answer: None)


def test_an_interrupt_ends_with_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", interrupt)

    assert main(["watch", str(tmp_path), "--model", "am-0"]) == 0


def test_sigterm_ends_it_with_a_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter(range(100))

    def pass_time(_seconds: float) -> None:
        if next(looks) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(module.time, "sleep", pass_time)
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_text("no image")
    before = signal.getsignal(signal.SIGTERM)

    assert main(["watch", str(tmp_path), "--model", "am-0"]) == 0

    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "stopped: 1 files classified, 1 refused"
    assert signal.getsignal(signal.SIGTERM) is before


def test_new_only_leaves_out_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter(range(100))

    def pass_time(_seconds: float) -> None:
        if (look := next(looks)) == 0:
            (tmp_path / "new.png").write_bytes(png())
        elif look == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", pass_time)
    (tmp_path / "old.png").write_bytes(png())

    assert main(["watch", str(tmp_path), "--model", "am-0", "--new-only"]) == 0

    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("new.png")


def test_a_folder_that_goes_while_one_looks_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "sub").mkdir()
    monkeypatch.setattr(images_below, "_kind", lambda path: rmdir(path) or READ[0])

    def rmdir(path: Path) -> None:
        (path.parent / "sub").rmdir()

    assert find_images(tmp_path).files == (tmp_path / "a.png",)
