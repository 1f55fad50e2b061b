"""The commands, through `kshot`'s own entry, against a real server on loopback."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from kshot.__main__ import main
from kshot.client import AccuracyEstimate, ExampleNote, Report, TailReport
from kshot.client.commands.adapt import estimate_document, expectation, last_layers, notes
from kshot.v1 import adaptation_pb2 as wire

if TYPE_CHECKING:
    from conftest import FakeServicer


def png(shade: int) -> bytes:
    """Return a small image file."""
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two class folders with two images each, and files that are to be ignored."""
    for name in ("dog", "cat"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(2):
            (tmp_path / "images" / name / f"{index}.png").write_bytes(png(index))
    (tmp_path / "images" / ".thumbnails").mkdir()
    (tmp_path / "images" / "README.txt").write_text("not a class")
    (tmp_path / "images" / "cat" / ".hidden").write_text("not an image")
    return tmp_path / "images"


@pytest.fixture
def server(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the commands find the running server by their environment."""
    monkeypatch.setenv("KSHOT_SERVER", address)
    return address


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:  # noqa: ANN401 -- any JSON
    """Run a command and return the one JSON document that it printed."""
    code = main([*map(str, arguments), "--json"])

    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    return json.loads(said.out)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a command that fails; return its exit code and the one line that it said."""
    code = main([*map(str, arguments)])

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("kshot: ")
    assert said.err.count("\n") == 1
    return code, said.err


@pytest.mark.usefixtures("server")
def test_adapt_prints_json(
    capsys: pytest.CaptureFixture[str], folder: Path, servicer: FakeServicer
) -> None:
    printed = document(capsys, "adapt", folder, "--model", "omniglot", "--seed", "3")

    timing = printed.pop("timing_ms")
    assert set(timing) == {"queue", "decode", "compute", "store", "round_trip"}
    assert printed == {
        "adapted_model": "am-0",
        "model": "omniglot",
        "model_version": 2,
        "weights_digest": "ab" * 32,
        "class_names": ["cat", "dog"],
        "step_count": 10,
        "support_accuracy": 0.75,
        "estimate": None,
        "chosen_from": [],
        "tail": None,
        "warnings": [],
        "deduplicated": False,
        "example_notes": [],
        "expire_time": "2026-12-01T10:00:00Z",
    }
    request: Any = servicer.requests[0]
    assert list(request.support_set.class_indices) == [0, 0, 1, 1]
    assert list(request.support_set.images.encoded.items) == [png(0), png(1), png(0), png(1)]
    assert request.options.seed == 3
    assert not request.options.HasField("allow_partial")
    assert not request.options.HasField("estimate")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("flag", ["--estimate", "--no-estimate"])
def test_an_estimate_can_be_switched_off(
    capsys: pytest.CaptureFixture[str], folder: Path, servicer: FakeServicer, flag: str
) -> None:
    document(capsys, "adapt", folder, flag)

    request: Any = servicer.requests[0]
    assert request.options.HasField("estimate")
    assert request.options.estimate is (flag == "--estimate")


@pytest.mark.usefixtures("server")
def test_a_terminal_shows_steps_and_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)

    assert main(["adapt", str(folder), "--model", "omniglot"]) == 0

    assert "adapting omniglot, loss 0.500" in stream.getvalue()
    assert "2/2" in stream.getvalue()
    assert "am-0" in capsys.readouterr().out


@pytest.mark.usefixtures("server")
def test_a_model_that_was_chosen_is_named_before_the_others(
    capsys: pytest.CaptureFixture[str], folder: Path, servicer: FakeServicer
) -> None:
    main(["adapt", str(folder)])
    assert "omniglot@2, chosen over photos (50 %)" in capsys.readouterr().out
    mine, other = document(capsys, "adapt", folder)["chosen_from"]

    assert mine == {"model": "omniglot", "estimate": None}
    assert other["model"] == "photos"
    assert (other["estimate"]["accuracy"], other["estimate"]["cross_entropy"]) == (0.5, 0.625)
    assert {request.model for request in servicer.requests} == {""}


def test_an_adaptation_says_what_to_expect() -> None:
    confusion = np.array([[9, 1], [2, 8]])
    estimate = AccuracyEstimate(0.85, 0.61, 0.954, 20, confusion, 0.5)
    report = Report("completed", (), "", 0, estimate=estimate)

    said = expectation(report)

    assert said == "85 % (61 to 95 %), from 20 examples, left out in turn"
    assert estimate_document(report.estimate) == {
        "accuracy": 0.85,
        "low": 0.61,
        "high": 0.954,
        "example_count": 20,
        "confusion": [[9, 1], [2, 8]],
        "cross_entropy": 0.5,
    }
    assert expectation(Report("completed", (), "", 0)).startswith("unknown: measure it")


@pytest.mark.parametrize(
    ("tail", "budget", "wanted"),
    [
        (TailReport(0.25, 20, 12, 9.0), 9.5, "adapted, weight 0.25 beside the head"),
        (
            TailReport(0.25, 20, 6, 9.01),
            8.0,
            "adapted, weight 0.25 beside the head; --time-budget 10 allows all steps",
        ),
        (TailReport(0.0, 20, 12, 9.0), 10.0, "as they were: adapting them gains nothing here"),
        (TailReport(0.0, 20, 0, 1.5), 2.0, "as they were: adapting them gains nothing here"),
        (
            TailReport(0.0, 0, 0, 9.0),
            2.0,
            "as they were: too little time; --time-budget 9 lets them adapt",
        ),
        (TailReport(0.0, 0, 0, 9.0), 20.0, "as they were: see the warnings"),
    ],
)
def test_an_adaptation_says_what_became_of_the_last_layers(
    tail: TailReport, budget: float, wanted: str
) -> None:
    assert last_layers(tail, budget) == wanted


@pytest.mark.usefixtures("server")
def test_the_last_layers_are_printed_where_the_server_tells_of_them(
    capsys: pytest.CaptureFixture[str], folder: Path, servicer: FakeServicer
) -> None:
    main(["adapt", str(folder)])
    assert "last layers" not in capsys.readouterr().out
    servicer.tail = wire.TailReport()
    servicer.tail.needed_time.FromMilliseconds(9500)

    main(["adapt", str(folder), "--time-budget", "2.5", "--scope", "auto"])
    assert "too little time; --time-budget 10 lets" in capsys.readouterr().out
    printed = document(capsys, "adapt", folder)["tail"]
    assert printed == {
        "weight": 0.0,
        "step_count": 0,
        "fold_step_count": 0,
        "needed_time": 9.5,
    }


def test_examples_that_may_do_harm_are_named_by_their_files() -> None:
    found = (
        ExampleNote(0, "blank"),
        ExampleNote(1, "duplicate", 0, "cat"),
        ExampleNote(1, "near_identical", 0, "cat"),
        ExampleNote(2, "mislabelled", None, "cat"),
        ExampleNote(2, "far", None, "dog"),
    )
    files = [Path("cat/0.png"), Path("dog/0.png"), Path("dog/1.png")]

    said = list(notes(Report("completed", (), "", 0, example_notes=found), files))

    assert said == [
        "cat/0.png is blank",
        "dog/0.png is the same picture as cat/0.png, of another class",
        "dog/0.png is nearly the same picture as cat/0.png",
        "dog/1.png looks like cat to the other examples",
        "dog/1.png is unlike the examples of all classes",
    ]


@pytest.mark.usefixtures("server")
def test_predict_prints_json(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    adapted = document(capsys, "adapt", folder, "--model", "omniglot")["adapted_model"]
    images = [folder / "cat" / "0.png", folder / "dog" / "0.png"]

    printed = document(capsys, "predict", adapted, *images, "--top", "2")

    assert set(printed) == {"predictions", "warnings", "timing_ms"}
    assert printed["warnings"] == []
    assert printed["predictions"][1] == {
        "file": str(images[1]),
        "label": "dog",
        "probability": 0.75,
        "known_score": 0.25,
        "top": [{"label": "dog", "probability": 0.75}, {"label": "cat", "probability": 0.25}],
    }


@pytest.mark.usefixtures("server")
def test_queries_below_the_threshold_are_none_of_these(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    adapted = document(capsys, "adapt", folder, "--model", "omniglot")["adapted_model"]
    image = folder / "cat" / "0.png"

    below = document(capsys, "predict", adapted, image, "--reject-below", "0.2")
    above = document(capsys, "predict", adapted, image, "--reject-below", "0.3")
    main(["predict", adapted, str(image), "--reject-below", "0.3"])

    assert below["predictions"][0]["label"] == "cat"
    assert above["predictions"][0]["label"] is None
    assert above["predictions"][0]["top"][0]["label"] == "cat"
    assert "none of these" in capsys.readouterr().out


@pytest.mark.usefixtures("server")
def test_models_lists_shows_exports_and_deletes(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    names = [
        document(capsys, "adapt", folder, "--model", "omniglot")["adapted_model"] for _ in range(3)
    ]

    listed = document(capsys, "models", "list")["adapted_models"]
    shown = document(capsys, "models", "get", names[0])
    exported = document(capsys, "models", "export", names[0], tmp_path / "mine.onnx")
    deleted = document(capsys, "models", "delete", *names[:2])

    assert [model["adapted_model"] for model in listed] == names
    assert shown == listed[0]
    assert exported["size_bytes"] == (tmp_path / "mine.onnx").stat().st_size
    assert deleted == {"deleted": names[:2]}
    assert len(document(capsys, "models", "list")["adapted_models"]) == 1


@pytest.mark.usefixtures("server")
def test_models_renews_filters_and_imports(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, servicer: FakeServicer
) -> None:
    name = document(capsys, "adapt", folder)["adapted_model"]
    document(capsys, "models", "export", name, tmp_path / "mine.onnx")

    filtered = document(capsys, "models", "list", "--filter", "size_bytes > 1")
    at = document(capsys, "models", "renew", name, "--expire-at", "2030-01-31T12:00:00Z")
    renewed = document(capsys, "models", "renew", name, "--ttl", "60", "--etag", at["etag"])
    imported = document(capsys, "models", "import", tmp_path / "mine.onnx", "--ttl", "60")

    assert len(filtered["adapted_models"]) == 1
    assert servicer.requests[2].filter == "size_bytes > 1"  # type: ignore[attr-defined]
    assert at["expire_time"] == "2030-01-31T12:00:00Z"
    assert renewed["expire_time"] == "1970-01-01T00:01:00Z"
    assert (imported["adapted_model"], imported["support_kept"]) == ("am-1", False)


@pytest.mark.usefixtures("server")
def test_revise_names_examples_by_index_or_file(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, servicer: FakeServicer
) -> None:
    name = document(capsys, "adapt", folder)["adapted_model"]
    (tmp_path / "more" / "owl").mkdir(parents=True)
    (tmp_path / "more" / "owl" / "0.png").write_bytes(png(7))
    words = ["--add", str(tmp_path / "more"), "--remove", "0", "--remove", "2"]
    words += ["--relabel", "1=owl", "--relabel", "3=a=b", "--seed", "4", "--etag", "e"]

    assert main(["revise", name, *words, "--json"]) == 0

    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert (printed["adapted_model"], printed["parent"]) == ("am-1", name)
    assert printed["deduplicated"]
    assert said.err == (
        f"warning: {tmp_path / 'more/owl/0.png'} is blank\n"
        "warning: example 0 is unlike the examples of all classes\n"
    )
    request: Any = servicer.requests[-1]
    assert list(request.removed_indices) == [0, 2]
    assert [(each.index, each.class_name) for each in request.relabellings] == [
        (1, "owl"),
        (3, "a=b"),
    ]
    assert list(request.added.class_names) == ["owl"]
    assert (request.options.seed, request.etag) == (4, "e")


@pytest.mark.usefixtures("server")
def test_names_do_not_command_a_terminal(
    capsys: pytest.CaptureFixture[str], servicer: FakeServicer
) -> None:
    """Another client may have chosen them."""
    servicer.kept["am-0"] = wire.AdaptedModel(
        id="am-0", class_names=["\x1b[2J\u202e", "नमस्\u200dते"]
    )
    servicer.warning = "\x1b]0;title\x07"
    main(["models", "list"])
    main(["models", "get", "am-0"])
    listed = capsys.readouterr().out
    main(["models", "get", "\x1b[31m"])
    said = capsys.readouterr().err

    assert "\x1b" not in listed + said and "\u202e" not in listed
    assert "\\x1b[2J\\u202e" in listed and "नमस्\u200dते" in listed


@pytest.mark.usefixtures("server")
def test_without_json_people_read_a_table(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    commands = [
        ["adapt", folder, "--model", "omniglot"],
        ["predict", "am-0", folder / "cat" / "0.png"],
        ["models", "list"],
        ["models", "get", "am-0"],
        ["models", "renew", "am-0", "--ttl", "60"],
        ["revise", "am-0", "--remove", "1"],
        ["models", "import", folder / "cat" / "0.png"],
    ]
    words = ["cat", "cat", "cat", "cat", "am-0 is kept until 1970-01-01", "revised from", "am-2"]

    for arguments, word in zip(commands, words, strict=True):
        assert main([*map(str, arguments)]) == 0
        assert word in capsys.readouterr().out


@pytest.mark.usefixtures("server")
def test_what_was_passed_over_is_said(
    capsys: pytest.CaptureFixture[str], folder: Path, servicer: FakeServicer
) -> None:
    for name in ("Thumbs.db", "desktop.ini", "notes.txt"):
        (folder / "dog" / name).write_bytes(b"[.ShellClassInfo]")

    assert main(["adapt", str(folder)]) == 0

    assert capsys.readouterr().err == (
        f"warning: {folder}: passed over what is no image of a class: dog/Thumbs.db, "
        "dog/desktop.ini, dog/notes.txt\n"
    )
    (request,) = servicer.requests
    assert isinstance(request, wire.AdaptRequest)
    assert len(request.support_set.images.encoded.items) == 4


@pytest.mark.usefixtures("server")
def test_warnings_go_to_stderr(
    capsys: pytest.CaptureFixture[str], folder: Path, servicer: FakeServicer
) -> None:
    servicer.warning = "the ground is dark"
    lines = []
    for arguments in (("adapt", folder, "--model", "m"), ("predict", "am-0", folder / "cat/0.png")):
        assert main([*map(str, arguments), "--json"]) == 0
        said = capsys.readouterr()
        json.loads(said.out)
        lines.append(said.err)

    assert lines == ["warning: the ground is dark\n"] * 2


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("missing", "no such directory: expected one subdirectory per class"),
        ("file", "not a directory"),
        ("empty", "expected one subdirectory of images per class, got none"),
        ("one", "expected at least two subdirectories with images, got only 'cat'"),
        ("hollow", "hollow/cat has no images; expected at least 1"),
        ("text", "not an image: expected PNG, JPEG or WebP"),
        ("nested", "got no images in cat, dog"),
        ("above", "further down; name "),
        ("above/below/cat", "if they are those of one class, name "),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    servicer: FakeServicer,
    wrong: str,
    words: str,
) -> None:
    above = ("above/below/cat", "above/below/dog")
    for name in ("empty", "one/cat", "hollow/cat", "hollow/dog", "text/cat", "text/dog", *above):
        (tmp_path / name).mkdir(parents=True)
    for name in ("one/cat", "hollow/dog", "text/cat", *above):
        (tmp_path / name / "a.png").write_bytes(png(1))
    (tmp_path / "file").write_text("a file")
    (tmp_path / "text/dog/a.png").write_text("no image")
    for name in ("nested/cat/deep", "nested/dog/deep"):
        (tmp_path / name).mkdir(parents=True)

    code, line = failure(capsys, "adapt", tmp_path / wrong, "--model", "omniglot")

    assert code == 2
    assert words in line
    assert str(tmp_path / wrong) in line
    assert servicer.requests == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["models", "list", "--server", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (["models", "list", "--server", "nowhere"], 2, "expected HOST:PORT"),
        (["models", "list", "--timeout", "0"], 2, "--timeout"),
        (["models", "get", "am-9"], 1, "there is no 'am-9'"),
        (["models", "delete", "am-9"], 1, "there is no 'am-9'"),
        (["models", "export", "am-9", "x.onnx"], 1, "there is no 'am-9'"),
        (["models", "lost"], 2, "lost"),
        (["models", "renew", "am-9", "--ttl", "5"], 1, "there is no 'am-9'"),
        (["models", "renew", "am-9"], 2, "--ttl and --expire-at: expected one of them"),
        (["models", "renew", "am-9", "--ttl", "nan"], 2, "ttl: expected a finite number"),
        (
            ["models", "renew", "am-9", "--expire-at", "2030-01-01T00:00:00"],
            2,
            "such as 2030-01-31T12:00:00Z",
        ),
        (["models", "import", "nowhere.onnx"], 2, "nowhere.onnx: No such file"),
        (["revise", "am-9", "--remove", "0"], 1, "there is no 'am-9'"),
        (["revise", "am-9", "--remove", "-1"], 2, "--remove"),
        (["revise", "am-9", "--relabel", "cat"], 2, "--relabel: expected INDEX=CLASS"),
        (["revise", "am-9", "--relabel", "1="], 2, "--relabel: expected INDEX=CLASS"),
        (["revise", "am-9", "--relabel", "1=a", "--relabel", "1=b"], 2, "each index once"),
        (["revise", "am-9", "--add", "nowhere"], 2, "nowhere: no such directory"),
        (["predict", "am-9", "nowhere.png"], 2, "nowhere.png: No such file or directory"),
        (["predict", "am-9"], 2, "IMAGE: expected at least one, got none"),
        (["predict"], 2, "ID"),
        (["adapt"], 2, "FOLDER"),
        (["adapt", ".", "--model", "omniglot", "--head", "neck"], 2, "neck"),
        (["adapt", ".", "--model", "omniglot", "--step-count", "many"], 2, "many"),
    ],
)
@pytest.mark.usefixtures("server")
def test_wrong_use_and_failure_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    exit_code, line = failure(capsys, *arguments)

    assert exit_code == code
    assert words in line
    assert list(tmp_path.iterdir()) == []
