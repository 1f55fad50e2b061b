"""`benchmarks/calibration.py` on small patterns, and its table in docs/choosing.md."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.__main__ import main
from kshot.bench import calibration_command
from kshot.bench.calibration_command import command, read_calibration
from kshot.bench.calibration_rows import CALIBRATED, calibration_block, renewed_calibration
from kshot.bench.evaluated_bundle import find_builtin
from kshot.bench.marked_page import replace_blocks
from kshot.bundle import BatchNormMode, Calibration, TemperatureRule, load_bundle
from kshot.trainer.errors import DataError

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "calibration.json"
PAGE = ROOT / "docs" / "choosing.md"
PackSmall = Callable[..., Path]


@pytest.fixture
def bundle(pack_small: PackSmall) -> Path:
    rules = tuple(
        TemperatureRule(mode, shot, temperature)
        for mode in BatchNormMode
        for shot, temperature in ((1, 0.5), (4, 2.0))
    )
    fitted = Calibration(rules, "val", "d4", 5, task_count=9, query_count=5, step_count=2, seed=0)
    return pack_small("omniglot-5way", "serving.step_count=2", calibration=fitted)


@pytest.fixture
def measure(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command with a small bundle in the place of those that ship, on 3 tasks."""
    monkeypatch.setattr(calibration_command, "find_builtin", lambda _name: load_bundle(bundle))

    def run(*arguments: str) -> Result:
        common = ["--data", str(tmp_path), "--out", str(tmp_path / "found.json")]
        common += ["--device", "cpu", "--no-compile"]
        common += [] if "--tasks" in arguments else ["--tasks", "3"]
        return CliRunner().invoke(command, [*common, *arguments])

    return run


def test_a_row_for_each_mode_is_what_its_command_gives(
    measure: Callable[..., Result],
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = measure("--only", "omniglot-2shot")
    rows = read_calibration(tmp_path / "found.json")

    assert done.exit_code == 0, done.output
    assert [row["batch_norm"] for row in rows] == [mode.value for mode in BatchNormMode]
    for row in rows:
        assert row["temperature"] == pytest.approx(1.0)  # in the middle of 0.5 and 2
        words = shlex.split(str(row["command"]))
        assert words[:3] == ["kshot", "evaluate", "omniglot"]
        words = ["evaluate", str(bundle), *words[3:], "--data", str(tmp_path), "--device", "cpu"]
        assert main([*words, "--no-compile", "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        for key in ("accuracy", "ece", "nll", "temperature", "tasks", "episodes_digest"):
            assert again[key] == row[key]


def test_pairs_are_kept_in_order_and_not_measured_again_unless_asked(
    measure: Callable[..., Result], tmp_path: Path
) -> None:
    measure("--only", "omniglot-5shot")
    measure("--only", "omniglot-1shot")
    path = tmp_path / "found.json"
    first = path.read_bytes()

    assert [row["pair"] for row in json.loads(first)] == ["omniglot-1shot"] * 3 + [
        "omniglot-5shot"
    ] * 3
    done = measure("--only", "omniglot-1shot, omniglot-5shot")
    assert done.stderr.count("measured before, --again measures it again") == 2
    assert path.read_bytes() == first
    assert "adapting: 2/2" in measure("--only", "omniglot-1shot", "--tasks", "2").stderr
    assert {(row["shot"], row["tasks"]) for row in read_calibration(path)} == {(1, 2), (5, 3)}
    assert "adapting: 3/3" in measure("--only", "omniglot-5shot", "--again").stderr


def test_rows_are_kept_while_what_decides_them_stays(
    bundle: Path, pack_small: PackSmall, measure: Callable[..., Result], tmp_path: Path
) -> None:
    pair = next(pair for pair in CALIBRATED if pair.name == "omniglot-1shot")
    measure("--only", pair.name)
    rows, own = read_calibration(tmp_path / "found.json"), load_bundle(bundle)
    settings, fitted = ("omniglot-5way", "serving.step_count=2"), own.manifest.calibration
    assert fitted is not None
    rules = tuple(replace(rule, temperature=rule.temperature * rule.shot) for rule in fitted.rules)
    same = load_bundle(pack_small(*settings, calibration=replace(fitted, rules=rules)))
    other = tuple(replace(rule, temperature=3.0) for rule in fitted.rules)

    assert renewed_calibration(rows, pair, own, 3) == rows
    renewed = renewed_calibration(rows, pair, same, 3)
    assert renewed == [{**row, "bundle_digest": same.digest} for row in rows]
    assert renewed_calibration(rows, pair, own, 4) is None
    assert renewed_calibration(rows[:2], pair, own, 3) is None
    for words, calibration in (
        (settings, replace(fitted, rules=other)),
        ((*settings, "inner.learning_rate=0.5"), fitted),
    ):
        changed = load_bundle(pack_small(*words, calibration=calibration))
        assert renewed_calibration(rows, pair, changed, 3) is None


def test_wrong_use_is_refused_in_one_line(measure: Callable[..., Result], tmp_path: Path) -> None:
    refused = measure("--only", "omniglot")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: pair is 'omniglot', wanted some of: omniglot-1shot, ")
    path = tmp_path / "found.json"
    path.mkdir()
    refused = measure("--only", "omniglot-1shot")
    assert refused.exit_code == 1
    assert "found.json cannot be read" in refused.stderr
    path.rmdir()
    refused = measure("--only", "omniglot-1shot", "--out", str(tmp_path / "none" / "found.json"))
    assert refused.exit_code == 1
    assert "found.json could not be written: No such file or directory" in refused.stderr
    assert "adapting" not in refused.stderr
    measure("--only", "omniglot-1shot")
    row = read_calibration(path)[0]
    for content in (
        "{}",
        "[1]",
        '[{"pair": "omniglot-1shot"}]',
        *(
            json.dumps([{**row, **changes}])
            for changes in ({"ece": None}, {"ece": "0"}, {"tasks": None}, {"pair": ["a"]})
        ),
        json.dumps([{**row, "batch_norm": "batch"}]),
        json.dumps([{**row, "batch_norm": ["support"]}]),
    ):
        path.write_text(content)
        refused = measure("--only", "omniglot-1shot")
        assert refused.exit_code == 1
        assert "found.json are no list of rows, each with pair, batch_norm" in refused.stderr
    path.write_text("[")
    with pytest.raises(DataError, match=r"found\.json cannot be read"):
        read_calibration(path)


def test_the_page_is_written_from_the_file(
    measure: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- calibration: x -->\nold\n<!-- end of calibration -->\n")
    monkeypatch.setattr(calibration_command, "PAGE", page)

    refused = measure("--page")
    assert refused.exit_code == 2
    assert "found.json, which is not there: --page writes from it" in refused.stderr
    assert "old" in page.read_text()
    (tmp_path / "found.json").write_text("[]")
    assert measure("--page").exit_code == 0
    assert "Nothing is measured yet." in page.read_text()
    rows = [
        {"pair": "omniglot-digits-5shot", "batch_norm": mode.value, "ece": ece, "tasks": 1000}
        for mode, ece in zip(BatchNormMode, (0.0123, 0.02, 0.5), strict=True)
    ]
    block = calibration_block(rows)
    assert block.splitlines()[2:] == [
        "| `omniglot` on digits | 5 | 1,000 | 1.2 % | 2.0 % | 50.0 % |"
    ]


def test_a_pair_without_a_mode_says_so() -> None:
    row = {"pair": "omniglot-1shot", "batch_norm": "support", "ece": 0.0123, "tasks": 1000}

    line = calibration_block([row]).splitlines()[-1]
    assert line == "| `omniglot` | 1 | 1,000 | not measured | not measured | 1.2 % |"


def test_the_committed_rows_are_what_the_page_says_and_of_the_bundles_that_ship() -> None:
    """After a change of a built-in bundle its calibration is to be measured again."""
    rows, page = read_calibration(RESULT), PAGE.read_text()

    assert replace_blocks(page, {"calibration": calibration_block(rows)}) == page
    found = {(row["pair"], row["batch_norm"]): row for row in rows}
    assert len(found) == len(rows) == 3 * len(CALIBRATED)
    for pair in CALIBRATED:
        bundle = find_builtin(pair.bundle)
        for mode in BatchNormMode:
            row = found[pair.name, mode.value]
            assert (row["bundle_digest"], row["tasks"]) == (bundle.digest, pair.task_count)
        assert renewed_calibration(rows, pair, bundle, None) is not None, pair.name
