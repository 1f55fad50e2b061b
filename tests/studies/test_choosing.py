"""`studies/choosing.py` on small patterns."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.__main__ import main
from kshot.bundle import (
    COMPUTED_MODES,
    Calibration,
    Head,
    Manifest,
    Preconditioner,
    load_bundle,
)
from kshot.bundle import TemperatureRule as Rule
from studies import choosing
from studies.choosing import all_choices, command
from studies.common import results
from studies.common.evaluation import read_pairs
from studies.common.results import DOCS, read_result
from studies.common.sweep import Sweep

PackSmall = Callable[..., Path]
RunSweep = Callable[..., Result]
ONLY = ("--only", "omniglot-1shot")


@pytest.fixture
def small(pack_small: PackSmall) -> Path:
    return pack_small("omniglot-5way", "serving.step_count=3")


@pytest.fixture
def sweep(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSweep:
    """Run the command with a small bundle of few choices in the place of those that ship."""

    def few(manifest: Manifest) -> object:
        kinds = (Preconditioner.CARRIED, Preconditioner.SGD)
        axes = replace(all_choices(manifest), step_counts=(0, 2, 3), preconditioners=kinds)
        return replace(axes, heads=(Head.TRAINED, Head.PROTOTYPE))

    monkeypatch.setattr(choosing, "all_choices", few)

    def run(*arguments: str, by: Path = small) -> Result:
        monkeypatch.setattr(choosing, "builtin_bundle", lambda _name: by)
        common = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
        common += ["--no-compile"]
        common += [] if "--tasks" in arguments else ["--tasks", "3"]
        return CliRunner().invoke(command, [*common, *arguments])

    return run


@pytest.fixture
def swept(tmp_path: Path) -> Callable[[str], results.Result]:
    """Return a function from a name to the kept result."""
    return lambda name: read_result(tmp_path / "out" / "choosing" / f"{name}.json")


Swept = Callable[[str], results.Result]


def test_pair_is_swept_over_all_choices(sweep: RunSweep, swept: Swept, tmp_path: Path) -> None:
    done = sweep(*ONLY)
    found = swept("omniglot-1shot")

    assert done.exit_code == 0, done.output
    # two preconditioners, two heads, two scopes, three numbers of steps, three modes; and NIL
    assert len(found.rows) == 2 * 2 * 2 * 3 * 3 + 3
    assert (found.settings["tasks"], found.settings["queries"]) == (3, 3)
    assert found.settings["temperatures"] == dict.fromkeys(map(str, COMPUTED_MODES), 1.0)
    picture = tmp_path / "out" / "choosing" / "omniglot-1shot.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    read = Sweep.of(found)
    assert list(read.defaults.values()) == ["support", "carried", "trained", "all", 3]
    assert read.served["difference"] is None
    assert [row["step_count"] for row in read.where("step_count")] == [0, 2, 3]
    assert [row["scope"] for row in read.where("scope") if row is not read.served] == ["head"]


def test_command_sweeps_a_pair_again(
    sweep: RunSweep,
    swept: Swept,
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep("--only", "omniglot-digits-5shot")
    found = swept("omniglot-digits-5shot")
    words = shlex.split(found.provenance.command)
    assert words[:2] + words[3:7] == [
        *("kshot", "evaluate", "--dataset", "digits", "--dataset-split", "all")
    ]
    assert words[-3:] == ["--no-compile", "--sweep", "OUT"]
    few = ["--preconditioners", "carried,sgd", "--heads", "trained,prototype"]
    words = ["evaluate", str(small), *words[3:-1], str(tmp_path / "again"), *few]
    assert main([*words, "--data", str(tmp_path), "--device", "cpu", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)

    assert again["episodes_digest"] == found.more["episodes_digest"]
    assert [(row["accuracy"], row["step_count"]) for row in again["rows"]] == [
        (pytest.approx(row["accuracy"], abs=1e-5), row["step_count"]) for row in found.rows
    ]


def test_kept_sweep_is_not_measured_again_unless_asked(
    sweep: RunSweep, swept: Swept, pack_small: PackSmall
) -> None:
    sweep(*ONLY)
    first = swept("omniglot-1shot")

    assert "measured before" in sweep(*ONLY).stderr
    assert swept("omniglot-1shot") == first
    later = pack_small("omniglot-5way", "serving.step_count=3", version=2)
    assert "measured before" in sweep(*ONLY, by=later).stderr
    made_with = replace(first.provenance, bundle_digest=load_bundle(later).digest)
    assert swept("omniglot-1shot") == replace(first, provenance=made_with)
    assert "adapting: 18/18" in sweep(*ONLY, "--tasks", "2").stderr
    assert swept("omniglot-1shot").settings["tasks"] == 2
    assert "adapting: 18/18" in sweep(*ONLY, "--tasks", "2", "--again").stderr


def test_what_decides_the_answers_decides_whether_a_sweep_is_kept(pack_small: PackSmall) -> None:
    """Card, version and temperatures for other tasks may change."""
    rules = tuple(Rule(mode, shot, 1.0) for mode in COMPUTED_MODES for shot in (1, 4))
    fitted = Calibration(rules, "val", "d4", 5, task_count=9, query_count=5, step_count=2, seed=0)
    hotter = replace(fitted, rules=(replace(rules[0], temperature=1.1), *rules[1:]))
    tasks = read_pairs("choosing")["omniglot-1shot"].tasks

    def deciding(*settings: str, **changes: object) -> object:
        bundle = load_bundle(pack_small("omniglot-5way", *settings, **changes))
        return tasks.deciding_answers(bundle)

    own = deciding()
    assert deciding(version=2, calibration=fitted) == own
    for settings in (
        "serving.step_count=9",
        "inner.learning_rate=0.5",
        "batch_norm.epsilon=0.5",
        "network.arguments.filters=6",
    ):
        assert deciding(settings) != own
    assert deciding(calibration=hotter) != own
    pair = read_pairs("choosing")["omniglot-1shot"]
    compiled, plain = (choosing.evaluation(pair, compiled=of) for of in (True, False))
    assert compiled.deciding != plain.deciding


def test_wrong_use_is_refused(sweep: RunSweep, tmp_path: Path) -> None:
    refused = sweep("--only", "omniglot")

    assert refused.exit_code == 2
    assert "Error: --only: expected some of omniglot-1shot, omniglot-5shot" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_page_and_pictures_are_written_from_the_results(
    sweep: RunSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "choosing.md"
    markers = [line for line in (DOCS / "choosing.md").read_text().splitlines() if "<!--" in line]
    page.write_text("\n".join(markers))
    monkeypatch.setattr(choosing, "DOCS", tmp_path)
    sweep("--only", "omniglot-5shot")
    picture = tmp_path / "out" / "choosing" / "omniglot-5shot.png"
    drawn = picture.read_bytes()
    picture.unlink()
    done = sweep("--page")

    assert done.exit_code == 0, done.output
    assert "adapting" not in done.stderr
    assert picture.read_bytes() == drawn
    text = page.read_text()
    assert "| nothing: accuracy, % | " in text
    assert "| `omniglot` | `support` | `carried` | `trained` | `all` | `3` |" in text


def test_default_number_of_steps_is_among_those_swept(manifest: Manifest) -> None:
    inner = replace(manifest.inner_loop, step_count=3)

    axes = all_choices(replace(manifest, inner_loop=inner))
    assert axes.step_counts == (0, 1, 2, 3, 5, 10, 20, 50)
    assert axes.scopes == manifest.scope.allowed
