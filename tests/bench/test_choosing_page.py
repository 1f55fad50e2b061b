"""The documents of `benchmarks/choosing.py`, and docs/choosing.md with what is committed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kshot.bench.choosing_command import read_document
from kshot.bench.choosing_page import page_blocks
from kshot.bench.choosing_pairs import PAIRS
from kshot.bench.choosing_rows import Choice, Sweep, choice_words
from kshot.bench.choosing_run import COLUMNS, all_choices
from kshot.bench.choosing_settings import answers, pair_settings, sweep_command
from kshot.bench.evaluated_bundle import adaptation_digest
from kshot.bench.marked_page import replace_blocks
from kshot.bundle import (
    BatchNormMode,
    Bundle,
    Calibration,
    Manifest,
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
        "columns": list(COLUMNS),
        "rows": [
            [
                *(getattr(choice, key) for key in COLUMNS[:6]),
                *(accuracy, 0.01, 0.02, 0.3, 4.0, difference, difference and 0.002),
            ]
            for choice, (accuracy, difference) in rows.items()
        ],
    }


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


def test_a_bundle_keeps_its_sweep_while_weights_defaults_and_temperatures_stay(
    pack_small: PackSmall,
) -> None:
    def packed(*settings: str, **changes: object) -> Bundle:
        return load_bundle(pack_small("omniglot-5way", *settings, **changes))

    rule = TemperatureRule(BatchNormMode.SUPPORT, 1, 1.0004)
    fitted = Calibration((rule,), "val", "d4", 5, task_count=9, query_count=5, step_count=2, seed=0)
    other = replace(fitted, rules=(replace(rule, temperature=1.1),))
    bundle = packed()
    settings = pair_settings(PAIRS[0], bundle.manifest, 3, 2)
    axes = all_choices(bundle.manifest)
    asked = sweep_command(PAIRS[0], settings, axes, compiled=False)
    document = {
        "adaptation_digest": adaptation_digest(bundle),
        "command": asked,
        "temperatures": dict.fromkeys(map(str, BatchNormMode), 1.0),
    }

    assert answers(document, bundle, settings, asked)
    assert answers(document, packed(version=2, calibration=fitted), settings, asked)
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
