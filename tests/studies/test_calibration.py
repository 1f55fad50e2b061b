"""`studies/calibration.py` on small patterns."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.__main__ import main
from kshot.bundle import COMPUTED_MODES, Calibration, TemperatureRule, load_bundle
from studies import calibration
from studies.calibration import command
from studies.common.results import read_result

PackSmall = Callable[..., Path]
Measure = Callable[..., Result]
SETTINGS = ("omniglot-5way", "serving.step_count=2")


@pytest.fixture
def fitted() -> Calibration:
    """Temperatures of 1 for two examples: in the middle of 0.5 and 2."""
    rules = tuple(
        TemperatureRule(mode, shot, temperature)
        for mode in COMPUTED_MODES
        for shot, temperature in ((1, 0.5), (4, 2.0))
    )
    return Calibration(rules, "val", "d4", 5, task_count=9, query_count=5, step_count=2, seed=0)


@pytest.fixture
def bundle(pack_small: PackSmall, fitted: Calibration) -> Path:
    return pack_small(*SETTINGS, calibration=fitted)


@pytest.fixture
def measure(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Run the command with a small bundle in the place of those that ship, on 3 tasks."""

    def run(*arguments: str, by: Path = bundle) -> Result:
        monkeypatch.setattr(calibration, "builtin_bundle", lambda _name: by)
        common = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
        common += ["--device", "cpu", "--no-compile"]
        common += [] if "--tasks" in arguments else ["--tasks", "3"]
        return CliRunner().invoke(command, [*common, *arguments])

    return run


def test_a_row_per_mode_is_what_the_command_gives(
    measure: Measure, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = measure("--only", "omniglot-2shot")
    result = read_result(tmp_path / "out" / "calibration" / "omniglot-2shot.json")

    assert done.exit_code == 0, done.output
    assert [row["batch_norm"] for row in result.rows] == [mode.value for mode in COMPUTED_MODES]
    for row in result.rows:
        temperature = result.settings["temperatures"][row["batch_norm"]]
        assert temperature == pytest.approx(1.0)
        words = shlex.split(result.provenance.command.replace("MODE", row["batch_norm"]))
        assert words[:3] == ["kshot", "evaluate", "omniglot@1"]
        words = ["evaluate", str(bundle), *words[3:], "--data", str(tmp_path), "--device", "cpu"]
        assert main([*words, "--no-compile", "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        for key in ("accuracy", "ci95", "ece", "nll"):
            assert again[key] == row[key]
        assert again["temperature"] == temperature
        assert again["tasks"] == result.settings["tasks"] == 3
        assert again["episodes_digest"] == result.more["episodes_digest"]


def test_results_are_kept_while_what_decides_them_stays(
    measure: Measure, pack_small: PackSmall, fitted: Calibration, tmp_path: Path
) -> None:
    """Temperatures for other numbers of examples decide nothing."""
    only, path = "omniglot-1shot", tmp_path / "out" / "calibration" / "omniglot-1shot.json"
    measure("--only", only)
    first = read_result(path)
    rules = tuple(replace(rule, temperature=rule.temperature * rule.shot) for rule in fitted.rules)
    same = pack_small(*SETTINGS, calibration=replace(fitted, rules=rules))
    rules = tuple(replace(rule, temperature=3.0) for rule in fitted.rules)
    hotter = pack_small(*SETTINGS, calibration=replace(fitted, rules=rules))
    faster = pack_small(*SETTINGS, "inner.learning_rate=0.5", calibration=fitted)

    done = measure("--only", f"{only}, ")
    assert done.stderr == f"{only}: measured before; --again measures it again\n"
    assert read_result(path) == first
    assert "measured before" in measure("--only", only, by=same).stderr
    made_with = replace(first.provenance, bundle_digest=load_bundle(same).digest)
    assert read_result(path) == replace(first, provenance=made_with)
    for other in (hotter, faster):
        assert "adapting: 3/3" in measure("--only", only, by=other).stderr
    assert "adapting: 3/3" in measure("--only", only, "--again", by=faster).stderr
    assert "adapting: 2/2" in measure("--only", only, "--tasks", "2", by=faster).stderr


def test_wrong_use_is_refused_in_one_line(measure: Measure, tmp_path: Path) -> None:
    refused = measure("--only", "omniglot")
    assert refused.exit_code == 2
    assert "Error: --only: expected some of omniglot-1shot, " in refused.stderr
    (tmp_path / "out").write_text("")
    refused = measure("--only", "omniglot-1shot")
    assert refused.exit_code == 1
    assert refused.stderr.endswith("Not a directory\n")
    assert refused.stderr.count("\n") == 1


def test_page_is_written_from_the_results(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "calibration" / "README.md"
    page.parent.mkdir()
    page.write_text("<!-- calibration: x -->\nold\n<!-- end of calibration -->\n")
    monkeypatch.setattr(calibration, "RESULTS", tmp_path)
    measure("--only", "omniglot-2shot")
    (row, *_) = read_result(tmp_path / "out" / "calibration" / "omniglot-2shot.json").rows

    assert measure("--page").exit_code == 0
    assert f"| `omniglot` | 2 | 3 | {100 * row['ece']:.1f} | " in page.read_text()
    assert "old" not in page.read_text()
