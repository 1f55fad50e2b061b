"""`benchmarks/choosing.py` on small patterns, and docs/choosing.md with what is committed."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kshot.__main__ import main
from kshot.bench import choosing_command
from kshot.bench.choosing_command import command, read_document
from kshot.bench.choosing_page import page_blocks
from kshot.bench.choosing_pairs import PAIRS
from kshot.bench.choosing_rows import Choice, Sweep, choice_words
from kshot.bench.choosing_run import all_choices
from kshot.bench.choosing_settings import answers, pair_settings, sweep_command
from kshot.bench.evaluated_bundle import adaptation_digest
from kshot.bench.marked_page import replace_blocks
from kshot.bundle import (
    BatchNormMode,
    Bundle,
    BundleError,
    Calibration,
    Head,
    Manifest,
    Preconditioner,
    TemperatureRule,
    builtin_bundle,
    load_bundle,
)
from kshot.trainer.errors import DataError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "choosing"
PAGE = ROOT / "docs" / "choosing.md"
PackSmall = Callable[..., Path]
SERVED = Choice("support", "carried", "trained", "all", 10)
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


def document_of(rows: Mapping[Choice, tuple[float, float | None]]) -> dict[str, object]:
    """Lay out accuracies and differences by their choices as a sweep's document."""
    return {
        "pair": "omniglot-1shot",
        "data": "patterns",
        "tasks": 300,
        "way": 5,
        "shot": 1,
        "queries_per_task": 25,
        "device": "a processor",
        "environment": {"gpu": None, "cpu": "a processor"},
        "command": "kshot evaluate omniglot",
        "defaults": {key: getattr(SERVED, key) for key in COLUMNS[:5]},
        "columns": COLUMNS,
        "rows": [
            [
                *(getattr(choice, key) for key in COLUMNS[:6]),
                *(accuracy, 0.01, 0.02, 0.3, 4.0, difference, difference and 0.002),
            ]
            for choice, (accuracy, difference) in rows.items()
        ],
    }


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
    sweep: Callable[..., Result], tmp_path: Path
) -> None:
    only = ("--only", "omniglot-1shot")
    sweep(*only)
    path = tmp_path / "out" / "omniglot-1shot.json"
    first = path.read_bytes()

    assert "measured before" in sweep(*only).stderr
    assert path.read_bytes() == first
    assert "measured before" not in sweep(*only, "--compile").stderr
    assert json.loads(path.read_text())["compiled"]
    assert "sweeping: 18/18" in sweep(*only, "--tasks", "2").stderr
    assert json.loads(path.read_text())["tasks"] == 2
    assert "sweeping: 18/18" in sweep(*only, "--tasks", "2", "--again").stderr


def test_a_bundle_keeps_its_sweep_while_weights_defaults_and_temperatures_stay(
    sweep: Callable[..., Result],
    pack_small: PackSmall,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def packed(*settings: str, **changes: object) -> Bundle:
        return load_bundle(pack_small("omniglot-5way", *settings, **changes))

    rule = TemperatureRule(BatchNormMode.SUPPORT, 1, 1.0004)
    fitted = Calibration((rule,), "val", "d4", 5, task_count=9, query_count=5, step_count=2, seed=0)
    other = replace(fitted, rules=(replace(rule, temperature=1.1),))
    bundle, same = packed(), packed(version=2, calibration=fitted)
    settings = pair_settings(PAIRS[0], bundle.manifest, 3, 2)
    axes = choosing_command.all_choices(bundle.manifest)
    asked = sweep_command(PAIRS[0], settings, axes, compiled=False)
    document = {
        **document_of({SERVED: (0.93, None)}),
        "bundle": "omniglot",
        "bundle_digest": bundle.digest,
        "adaptation_digest": adaptation_digest(bundle),
        "command": asked,
        "temperatures": dict.fromkeys(map(str, BatchNormMode), 1.0),
    }

    assert answers(document, bundle, settings, asked)
    for another in (
        sweep_command(PAIRS[0], settings, axes, compiled=True),
        sweep_command(PAIRS[0], replace(settings, task_count=4), axes, compiled=False),
        sweep_command(PAIRS[0], settings, replace(axes, step_counts=(0, 2)), compiled=False),
        sweep_command(PAIRS[2], settings, axes, compiled=False),
    ):
        assert not answers(document, bundle, settings, another)
    for temperatures in ({}, None, {"support": 1.0}, dict.fromkeys(map(str, BatchNormMode))):
        changed = {**document, "temperatures": temperatures}
        assert not answers(changed, bundle, settings, asked)
    assert not answers({"not_measured": ""}, bundle, settings, asked)
    for changed_bundle in (
        packed("serving.step_count=9"),
        packed("inner.learning_rate=0.5"),
        packed("batch_norm.epsilon=0.5"),
        packed("network.arguments.filters=6"),
        packed(calibration=other),
    ):
        assert not answers(document, changed_bundle, settings, asked)

    path = tmp_path / "out" / f"{PAIRS[0].name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    monkeypatch.setattr(choosing_command, "builtin_bundle", lambda _name: same.path)
    assert "measured before" in sweep("--only", PAIRS[0].name).stderr
    assert json.loads(path.read_text()) == {**document, "bundle_digest": same.digest}


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


def test_a_file_that_holds_no_sweep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{PAIRS[0].name}.json"

    for content in ("[]", "{}", '{"rows": [], "not_measured": ""}'):
        path.write_text(content)
        with pytest.raises(DataError, match="have both rows and a reason for none, or neither"):
            read_document(tmp_path, PAIRS[0])
    sound = {**document_of({SERVED: (0.93, None)}), "bundle": "omniglot"}
    path.write_text(json.dumps(sound))
    assert read_document(tmp_path, PAIRS[0]) == sound
    (row,) = sound["rows"]  # type: ignore[misc]  # a list of one row
    for changes in (
        {"rows": None},
        {"rows": []},
        {"rows": [row[:-1]]},
        {"rows": [[*row[:6], "high", *row[7:]]]},
        {"columns": None},
        {"defaults": {}},
        {"environment": None},
        {"environment": {}},
        {"tasks": None},
        {"command": 1},
    ):
        path.write_text(json.dumps({**sound, **changes}))
        with pytest.raises(DataError, match=r"omniglot-1shot\.json hold no whole sweep: "):
            read_document(tmp_path, PAIRS[0])
    path.write_text("{")
    with pytest.raises(DataError, match=r"omniglot-1shot\.json cannot be read"):
        read_document(tmp_path, PAIRS[0])


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


def test_a_table_has_single_changes_baselines_and_the_most_accurate_of_the_served_mode() -> None:
    rows = {
        Choice("support", None, None, None, 0, "nil"): (0.8, -0.13),
        SERVED: (0.93, None),
        replace(SERVED, step_count=0): (0.2, -0.73),
        replace(SERVED, step_count=5): (0.926, -0.004),
        replace(SERVED, step_count=50): (0.94, 0.01),
        replace(SERVED, head="prototype", step_count=0): (0.85, -0.08),
        replace(SERVED, preconditioner="sgd", scope="head"): (0.95, 0.02),
        replace(SERVED, batch_norm_mode="transductive"): (0.96, 0.03),
    }
    missing = {pair.name: {"not_measured": "none ships"} for pair in PAIRS}
    blocks = page_blocks({**missing, "omniglot-1shot": document_of(rows)})

    cells = [line.split(" | ") for line in blocks["omniglot-1shot"].splitlines() if "|" in line][2:]
    assert [(line[0].removeprefix("| "), line[1], line[2]) for line in cells] == [
        ("**the defaults**", "93.00 ± 1.00 %", ""),
        ("mode `transductive`", "96.00 ± 1.00 %", "+3.00 ± 0.20"),
        ("0 steps", "20.00 ± 1.00 %", "-73.00 ± 0.20"),
        ("5 steps", "92.60 ± 1.00 %", "-0.40 ± 0.20"),
        ("50 steps", "94.00 ± 1.00 %", "+1.00 ± 0.20"),
        ("class means, no step", "85.00 ± 1.00 %", "-8.00 ± 0.20"),
        ("no head, no step: NIL", "80.00 ± 1.00 %", "-13.00 ± 0.20"),
        (
            "most accurate in that mode: preconditioner `sgd`, scope `head`",
            "95.00 ± 1.00 %",
            "+2.00 ± 0.20",
        ),
    ]
    assert "| 5 steps | preconditioner `sgd`, scope `head`: +2.00 ± 0.20 |" in blocks["overview"]
    best = page_blocks({**missing, "omniglot-1shot": document_of({SERVED: (0.93, None)})})
    assert best["overview"].endswith("| 10 steps | the defaults |")
    assert "computed on one thread of a processor, by `kshot eval" in blocks["omniglot-1shot"]
    assert blocks["cifar-fs-5shot"] == "Not measured: none ships."
    assert page_blocks({**missing})["overview"] == "Nothing is measured yet."


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        # by steps; those of the defaults have no difference
        ({0: -0.7, 2: -0.004, 5: -0.001}, "2 steps"),
        ({0: -0.7, 1: -0.004, 2: -0.02, 5: 0.001}, "5 steps"),
        ({0: -0.004, 1: -0.005, 5: -0.01}, "10 steps"),
        ({0: 0.004, 1: 0.0, 50: -0.2}, "0 steps"),
        ({0: -0.3, 1: 0.0}, "1 step"),
    ],
)
def test_steps_are_as_good_from_where_no_larger_number_falls_behind(
    differences: Mapping[int, float], words: str
) -> None:
    rows: dict[Choice, tuple[float, float | None]] = {SERVED: (0.9, None)}
    for steps, difference in reversed(differences.items()):
        rows[replace(SERVED, step_count=steps)] = (0.9 + difference, difference)
    missing = {pair.name: {"not_measured": "none ships"} for pair in PAIRS}
    overview = page_blocks({**missing, "omniglot-1shot": document_of(rows)})["overview"]

    assert overview.splitlines()[-1].split(" | ")[4] == words


def test_of_equally_accurate_choices_the_defaults_are_named() -> None:
    rows = {replace(SERVED, step_count=0): (0.93, 0.0), SERVED: (0.93, None)}

    assert Sweep.of(document_of(rows)).best().choice == SERVED


def test_a_choice_is_told_by_what_it_has_otherwise() -> None:
    other = replace(SERVED, step_count=1, head="zero", batch_norm_mode="transductive")

    assert choice_words(other, SERVED) == "mode `transductive`, head `zero`, 1 step"
    assert choice_words(SERVED, SERVED) == "the defaults"


def test_a_default_number_of_steps_is_always_among_those_swept(manifest: Manifest) -> None:
    inner = replace(manifest.inner_loop, step_count=3)

    axes = all_choices(replace(manifest, inner_loop=inner))
    assert axes.step_counts == (0, 1, 2, 3, 5, 10, 20, 50)
    assert axes.scopes == manifest.scope.allowed


def test_the_committed_sweeps_are_what_the_page_says_and_of_the_bundles_that_ship() -> None:
    """After a change of a built-in bundle its pairs are to be swept again."""
    documents = {pair.name: read_document(RESULTS, pair) for pair in PAIRS}
    page = PAGE.read_text()

    assert replace_blocks(page, page_blocks(documents)) == page
    for pair in PAIRS:
        document = documents[pair.name]
        if "not_measured" in document:
            continue
        bundle = load_bundle(builtin_bundle(pair.bundle))
        assert document["bundle_digest"] == bundle.digest, pair.name
        settings = pair_settings(pair, bundle.manifest, None, None)
        asked = sweep_command(pair, settings, all_choices(bundle.manifest), compiled=True)
        assert answers(document, bundle, settings, asked), pair.name
        assert (RESULTS / f"{pair.name}.png").exists()
