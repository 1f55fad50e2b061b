"""`kshot bundle inspect`, `verify` and `push`, through `kshot`'s own entry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kshot.__main__ import main
from kshot.bundle import Bundle, folder_digest
from kshot.client.commands import reload as reloading


@pytest.fixture
def bundle(means_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of a small bundle, to be damaged."""
    return shutil.copytree(means_bundle.path, tmp_path / "built" / "means" / "1")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, Any]:
    code = main([*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_inspect_tells_all_of_the_manifest(
    capsys: pytest.CaptureFixture[str], bundle: Path
) -> None:
    code, printed = run(capsys, "bundle", "inspect", bundle)

    assert code == 0
    assert printed["digest"] == folder_digest(bundle)
    assert printed["manifest"]["input"]["shape"] == [3, 8, 8]
    assert main(["bundle", "inspect", str(bundle)]) == 0
    assert "gives (12, 1, 1)" in capsys.readouterr().out


def test_inspect_names_what_is_there_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "inspect", "nothing"]) == 1
    assert "no built-in bundle 'nothing'" in capsys.readouterr().err


def test_verify_predicts(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, printed = run(capsys, "bundle", "verify", bundle)

    assert (code, printed["valid"]) == (0, True)
    assert printed["checks"][-1] == "mode stored: finite answers for 5 classes"


def test_verify_names_a_damaged_file(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    with (bundle / "predict_stored.onnx").open("ab") as file:
        file.write(b"x")

    code, printed = run(capsys, "bundle", "verify", bundle)

    assert code == 1
    assert "predict_stored.onnx" in printed["error"]["message"]


def test_push_copies_once_and_sets_labels(
    capsys: pytest.CaptureFixture[str], bundle: Path, repository: Path
) -> None:
    words = ("bundle", "push", bundle, "--repository", repository, "--label", "stable")

    first = run(capsys, *words)
    second = run(capsys, *words)

    assert (first[0], first[1]["copied"]) == (0, True)
    assert (second[0], second[1]["copied"]) == (0, False)
    assert folder_digest(repository / "means" / "1") == folder_digest(bundle)
    assert json.loads((repository / "means" / "labels.json").read_text()) == {"stable": 1}
    assert sorted(each.name for each in (repository / "means").iterdir()) == ["1", "labels.json"]


def test_push_refuses_another_content(
    capsys: pytest.CaptureFixture[str], bundle: Path, repository: Path
) -> None:
    main(["bundle", "push", str(bundle), "--repository", str(repository)])
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    before = folder_digest(repository / "means" / "1")

    assert main(["bundle", "push", str(bundle), "--repository", str(repository)]) == 1

    assert "has another content already" in capsys.readouterr().err
    assert folder_digest(repository / "means" / "1") == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--repository", "nowhere"], "nowhere: not a directory"),
        (["--repository", ".", "--label", "No"], "--label: expected a match of"),
    ],
)
def test_push_refuses_before_it_copies(
    capsys: pytest.CaptureFixture[str], bundle: Path, options: list[str], words: str
) -> None:
    assert main(["bundle", "push", str(bundle), *options]) != 0
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("watched", [True, False])
def test_push_waits_until_the_server_serves_it(
    capsys: pytest.CaptureFixture[str],
    bundle: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    watched: bool,
) -> None:
    served: reloading.Served = {
        "model": "means",
        "version": 1,
        "bundle_digest": folder_digest(bundle) if watched else "ab" * 32,
        "labels": [],
        "loaded": True,
    }
    monkeypatch.setattr(
        "kshot.operate.bundle_push.reload_bundles", lambda _server, _timeout: [served]
    )

    code = main(["bundle", "push", str(bundle), "--repository", str(repository), "--reload"])

    said = capsys.readouterr()
    assert code == (0 if watched else 1)
    assert ("serves means@1" in said.out) is watched
    assert ("does it watch" in said.err) is not watched
