"""`kshot predict ID FOLDER`, through `kshot`'s own entry, against a real server on loopback."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from PIL import Image

from kshot.__main__ import main
from kshot.v1 import adaptation_pb2 as wire

if TYPE_CHECKING:
    from conftest import FakeServicer


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images of each of two classes, and what is to be passed over."""
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{index}.png").write_bytes(file.getvalue())
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").write_bytes(file.getvalue())
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture(autouse=True)
def model(address: str, servicer: FakeServicer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let commands find a server that keeps a model of cats and dogs."""
    monkeypatch.setenv("KSHOT_SERVER", address)
    servicer.kept["am-0"] = wire.AdaptedModel(
        id="am-0", model="omniglot", class_names=["cat", "dog"]
    )
    return "am-0"


def predicted(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> tuple[int, Any]:
    code = main(["predict", "am-0", str(folder), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def asked(servicer: FakeServicer) -> list[int]:
    """Return how many images each request to predict had."""
    requests = [each for each in servicer.requests if isinstance(each, wire.PredictRequest)]
    return [len(each.queries.encoded.items) for each in requests]


def test_a_folder_of_class_folders_is_scored(
    capsys: pytest.CaptureFixture[str], photos: Path, servicer: FakeServicer
) -> None:
    """The server answers cat and dog in turns."""
    code, printed = predicted(capsys, photos)

    assert code == 0
    assert asked(servicer) == [4]
    assert [each["label"] for each in printed["predictions"]] == ["cat", "dog", "cat", "dog"]
    score = printed["score"]
    assert (score["accuracy"], score["count"]) == (0.5, 4)
    assert 0 < score["low"] < 0.5 < score["high"] < 1
    assert score["confusion"] == {
        "predicted": ["cat", "dog"],
        "rows": {"cat": [1, 1], "dog": [1, 1]},
    }
    assert [each["accuracy"] for each in score["per_class"]] == [0.5, 0.5]


def test_people_read_a_table_and_the_score(
    capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    assert main(["predict", "am-0", str(photos)]) == 0

    said = capsys.readouterr()
    assert "accuracy 50.0 %" in said.out
    assert (said.out.count(".png"), said.err) == (4, "")
    assert "\x1b" not in said.out


def test_what_is_rejected_counts_as_none_of_these(
    capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    _, printed = predicted(capsys, photos, "--reject-below", "0.5")

    assert printed["score"]["accuracy"] == 0
    assert printed["score"]["confusion"]["predicted"] == ["cat", "dog", None]


def test_a_folder_without_class_folders_is_only_classified(
    capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    code, printed = predicted(capsys, photos / "cat")

    assert (code, printed["score"], len(printed["predictions"])) == (0, None, 2)


def test_other_folders_are_named_and_not_scored(
    capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    (photos / "dog").rename(photos / "wolf")

    _, printed = predicted(capsys, photos)

    assert printed["score"]["count"] == 2
    assert "no such class: wolf" in printed["warnings"][0]


def test_requests_stay_within_the_limits_of_the_server(
    capsys: pytest.CaptureFixture[str], photos: Path, servicer: FakeServicer
) -> None:
    servicer.max_predict_images = 3

    predicted(capsys, photos)

    assert asked(servicer) == [3, 1]


def test_a_request_that_is_too_large_is_divided(
    capsys: pytest.CaptureFixture[str],
    photos: Path,
    servicer: FakeServicer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = servicer._begin

    def refuse_large(request: Any, context: Any) -> None:  # noqa: ANN401 -- gRPC's own
        large = isinstance(request, wire.PredictRequest) and len(request.queries.encoded.items) > 2
        if large:
            info = ErrorInfo(reason="REQUEST_TOO_LARGE", domain="kshot")
            servicer.refuse(Code.RESOURCE_EXHAUSTED, "too large", info, times=1)
        begin(request, context)

    monkeypatch.setattr(servicer, "_begin", refuse_large)

    code, printed = predicted(capsys, photos)

    assert (code, len(printed["predictions"])) == (0, 4)
    assert asked(servicer) == [4, 2, 2]


def test_a_refused_image_leaves_the_others(
    capsys: pytest.CaptureFixture[str], photos: Path, servicer: FakeServicer
) -> None:
    (photos / "cat" / "2.png").write_text("no image at all")
    damaged = BadRequest()
    damaged.field_violations.add(field="queries.encoded.items[1]", description="damaged")
    info = ErrorInfo(reason="INVALID_ARGUMENT", domain="kshot")
    calls = iter(range(100))
    begin = servicer._begin

    def refuse_first(request: Any, context: Any) -> None:  # noqa: ANN401 -- gRPC's own
        if isinstance(request, wire.PredictRequest) and next(calls) == 0:
            servicer.refuse(Code.INVALID_ARGUMENT, "refused", info, damaged, times=1)
        begin(request, context)

    servicer._begin = refuse_first  # type: ignore[method-assign] # refuses one call

    code, printed = predicted(capsys, photos)

    assert code == 1
    assert len(printed["predictions"]) == 3
    refused = {Path(each["file"]).name: each["error"] for each in printed["refused"]}
    assert refused["1.png"] == "damaged"
    assert "not an image" in refused["2.png"]


@pytest.mark.parametrize(
    ("below", "code", "words"),
    [(".hidden/none", 2, "No such file"), ("empty", 2, "expected images, got none")],
)
def test_a_folder_without_images_is_one_line(
    capsys: pytest.CaptureFixture[str], photos: Path, below: str, code: int, words: str
) -> None:
    (photos / "empty").mkdir()

    assert main(["predict", "am-0", str(photos / below)]) == code
    assert words in capsys.readouterr().err


def test_a_folder_stands_alone(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    assert main(["predict", "am-0", str(photos), str(photos / "cat" / "0.png")]) == 2
    assert "one FOLDER" in capsys.readouterr().err
