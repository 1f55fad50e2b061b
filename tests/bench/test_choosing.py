"""`benchmarks/choosing.py` on small patterns."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.__main__ import main
from kshot.bench import choosing_command
from kshot.bench.choosing_command import command
from kshot.bench.choosing_rows import Sweep
from kshot.bench.choosing_run import all_choices
from kshot.bundle import BundleError, Head, Manifest, Preconditioner, load_bundle

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "choosing.md"
PackSmall = Callable[..., Path]
COLUMNS = ["batch_norm_mode", "preconditioner", "head", "scope", "step_count", "baseline"]
COLUMNS += ["accuracy", "ci95", "ece", "nll", "ms_per_task", "difference", "difference_ci95"]


@pytest.fixture
def sweep(
    pack_small: PackSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run the command with small bundles of few choices in the place of those that ship."""
    small = pack_small("omniglot-5way", "serving.step_count=10")

    def few(manifest: Manifest) -> object:
        kinds = (Preconditioner.CARRIED, Preconditioner.SGD)
        axes = replace(all_choices(manifest), step_counts=(0, 2, 10), preconditioners=kinds)
        return replace(axes, heads=(Head.TRAINED, Head.PROTOTYPE))

    def builtin(name: str) -> Path:
        if name != "omniglot":
            raise BundleError(name)
        return small

    monkeypatch.setattr(choosing_command, "builtin_bundle", builtin)
    monkeypatch.setattr(choosing_command, "all_choices", few)

    def run(*arguments: str) -> Result:
        common = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
        common += ["--no-compile", "--queries", "2"]
        common += [] if "--tasks" in arguments else ["--tasks", "3"]
        return CliRunner().invoke(command, [*common, *arguments])

    return run


def test_a_pair_is_swept_over_all_choices_into_a_compact_file_and_a_picture(
    sweep: Callable[..., Result], tmp_path: Path
) -> None:
    done = sweep("--only", "omniglot-1shot")
    found = json.loads((tmp_path / "out" / "omniglot-1shot.json").read_text())
    others = json.loads((tmp_path / "out" / "cifar-fs-1shot.json").read_text())

    assert done.exit_code == 0, done.output
    assert found["columns"] == COLUMNS
    # two preconditioners, two heads, two scopes, three numbers of steps, three modes; and NIL
    assert len(found["rows"]) == 2 * 2 * 2 * 3 * 3 + 3
    assert (found["tasks"], found["queries_per_task"], found["seed"]) == (3, 10, 0)
    assert found["defaults"] == {
        "batch_norm_mode": "support",
        "preconditioner": "carried",
        "head": "trained",
        "scope": "all",
        "step_count": 10,
    }
    assert found["temperatures"] == dict.fromkeys(
        ("transductive", "support_and_query", "support"), 1.0
    )
    assert {"cpu", "torch"} <= set(found["environment"])
    assert (tmp_path / "out" / "omniglot-1shot.png").read_bytes().startswith(b"\x89PNG")
    assert others["not_measured"] == "no bundle cifar-fs ships with the package yet"
    swept = Sweep.of(found)
    assert swept.as_served().difference is None
    assert [row.choice.step_count for row in swept.along_steps(swept.defaults)] == [0, 2, 10]
    assert [row.choice.scope for row in swept.changed("scope")] == ["head"]


def test_a_pairs_command_sweeps_it_again(
    sweep: Callable[..., Result],
    pack_small: PackSmall,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep("--only", "omniglot-digits-5shot")
    found = json.loads((tmp_path / "out" / "omniglot-digits-5shot.json").read_text())
    words = shlex.split(found["command"])
    assert words[:2] + words[3:7] == [
        *("kshot", "evaluate", "--dataset", "digits", "--dataset-split", "all")
    ]
    assert words[-3:] == ["--no-compile", "--sweep", "OUT"]
    few = ["--preconditioners", "carried,sgd", "--heads", "trained,prototype"]
    words = ["evaluate", str(pack_small()), *words[3:-1], str(tmp_path / "again"), *few]
    assert main([*words, "--data", str(tmp_path), "--device", "cpu", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)

    assert again["episodes_digest"] == found["episodes_digest"]
    assert [(row["accuracy"], row["step_count"]) for row in again["rows"]] == [
        (pytest.approx(row[6], abs=1e-5), row[4]) for row in found["rows"]
    ]


def test_what_was_measured_is_not_measured_again_unless_asked(
    sweep: Callable[..., Result],
    pack_small: PackSmall,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only = ("--only", "omniglot-1shot")
    sweep(*only)
    path = tmp_path / "out" / "omniglot-1shot.json"
    first = path.read_bytes()

    assert "measured before" in sweep(*only).stderr
    assert path.read_bytes() == first
    later = pack_small("omniglot-5way", "serving.step_count=10", version=2)
    with monkeypatch.context() as patched:
        patched.setattr(choosing_command, "builtin_bundle", lambda _name: later)
        assert "measured before" in sweep(*only).stderr
    renewed = {**json.loads(first), "bundle_digest": load_bundle(later).digest}
    assert json.loads(path.read_text()) == renewed
    assert "measured before" not in sweep(*only, "--compile").stderr
    assert json.loads(path.read_text())["compiled"]
    assert "sweeping: 18/18" in sweep(*only, "--tasks", "2").stderr
    assert json.loads(path.read_text())["tasks"] == 2
    assert "sweeping: 18/18" in sweep(*only, "--tasks", "2", "--again").stderr


def test_wrong_use_is_refused_in_one_line(sweep: Callable[..., Result], tmp_path: Path) -> None:
    for name, message in (
        ("omniglot", "pair is 'omniglot', wanted some of: omniglot-1shot, omniglot-5shot"),
        ("cifar-fs-1shot", "cifar-fs-1shot has no bundle: none named cifar-fs ships"),
    ):
        refused = sweep("--only", name)

        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"Error: {message}")
        assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    refused = sweep("--page")
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"Error: --out is {tmp_path / 'out'}, which is not there: --page writes from it\n"
    )
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    refused = sweep("--page")
    assert refused.exit_code == 1
    assert "omniglot-1shot.json cannot be read" in refused.stderr
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("")
    refused = sweep("--only", "omniglot-1shot")
    assert refused.exit_code == 1
    assert refused.stderr == f"Error: folder {tmp_path / 'out'} could not be made: File exists\n"


def test_the_page_and_the_pictures_are_written_from_the_files_and_nothing_is_measured(
    sweep: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    monkeypatch.setattr(choosing_command, "PAGE", page)
    sweep("--only", "omniglot-5shot")
    picture = tmp_path / "out" / "omniglot-5shot.png"
    drawn = picture.read_bytes()
    picture.unlink()
    done = sweep("--page")

    assert done.exit_code == 0, done.output
    assert "sweeping" not in done.stderr
    assert picture.read_bytes() == drawn
    text = page.read_text()
    assert "| **the defaults** |" in text
    assert "| `omniglot` | `support` | `carried` | `trained` | `all` | `10` |" in text
    assert "Not measured: no bundle cifar-fs ships with the package yet." in text
