import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.collections import PolyCollection

from kshot.bundle import BatchNormMode, Bundle, Head, Manifest, Preconditioner, Scope, load_bundle
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest, pack_bundle
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import SweepRow, Variant
from kshot.trainer.output.sweep_plot import sweep_figure
from kshot.trainer.output.sweep_report import SweepSubject, sweep_json, sweep_markdown
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.statistics import Interval
from kshot.trainer.tasks.support_flaws import SupportFlaws

FLAWS = SupportFlaws(wrong_labels=0.4, imbalance=True)
SETTINGS = EvaluationSettings(5, 2, 1, 2, BatchNormMode.SUPPORT, seed=7, flaws=FLAWS)


def result(step_count: int, correct: tuple[int, int]) -> EvaluationResult:
    accuracy = sum(correct) / 10
    return EvaluationResult(
        accuracy, 0.05, "an interval", 0.1, 0.7, 2, step_count, 12.34, correct, 5, "e" * 64
    )


@pytest.fixture
def rows() -> list[SweepRow]:
    rows = []
    for mode in (BatchNormMode.SUPPORT, BatchNormMode.TRANSDUCTIVE):
        rows.append(SweepRow(Variant(baseline=Baseline.NIL), mode, result(0, (2, 3))))
        for scope in (Scope.ALL, Scope.HEAD):
            variant = Variant(Preconditioner.CARRIED, Head.TRAINED, scope)
            for steps in (0, 1, 50):
                difference = Interval(0.1, 0.02, "paired") if steps else None
                rows.append(
                    SweepRow(variant, mode, result(steps, (1 + steps // 20, 4)), difference)
                )
    return rows


@pytest.fixture
def subject(
    small_recipe: Callable[..., Recipe],
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Callable[..., ImageDataset],
    small_bundle: None,  # noqa: ARG001 -- templates are names
    tmp_path: Path,
) -> SweepSubject:
    recipe, dataset = small_recipe(), patterns()
    manifest = draft_manifest(recipe, dataset)
    initialization = make_initialization(manifest)
    bundle: Bundle = load_bundle(pack_bundle(tmp_path, manifest, initialization, recipe, dataset))
    return SweepSubject(bundle, dataset, SETTINGS, "one CPU thread")


def test_json_names_what_was_swept_and_keeps_every_row(
    subject: SweepSubject, rows: list[SweepRow]
) -> None:
    document = json.loads(sweep_json(subject, rows))

    assert document["bundle_digest"] == subject.bundle.digest
    assert document["episodes_digest"] == "e" * 64
    assert (document["way"], document["shot"], document["tasks"]) == (5, 2, 2)
    assert (document["wrong_labels"], document["imbalance"]) == (0.4, True)
    assert len(document["rows"]) == len(rows) == 14
    assert document["rows"][3] == {
        "preconditioner": "carried",
        "head": "trained",
        "scope": "all",
        "baseline": None,
        "batch_norm_mode": "support",
        "step_count": 50,
        "accuracy": 0.7,
        "ci95": 0.05,
        "ci_method": "an interval",
        "ece": 0.1,
        "nll": 0.7,
        "temperature": 1.0,
        "ms_per_task": 12.34,
        "diverged": 0,
        "unknown": None,
        "difference": {"mean": 0.1, "ci95": 0.02, "ci_method": "paired"},
        "correct_counts": [3, 4],
    }


def test_markdown_has_a_table_for_each_mode(subject: SweepSubject, rows: list[SweepRow]) -> None:
    text = sweep_markdown(subject, rows)

    assert text.index("## `transductive`") < text.index("## `support`")
    assert (
        text.count("| variant | 0 steps | 1 step | 50 steps |\n| --- | ---: | ---: | ---: |") == 2
    )
    cells = "50.00 ± 5.00, 12.3 ms"
    assert text.count(f"| NIL (no adaptation, cosine) | {cells} |  |  |") == 2
    assert text.count("| carried, head trained, scope head |") == 2
    assert "| 70.00 ± 5.00, 12.3 ms |" in text
    assert "40 % of the support labels are wrong. Shots are uneven." in text
    assert "(an interval)" in text


def test_the_scope_is_named_only_where_there_are_two(
    subject: SweepSubject, rows: list[SweepRow]
) -> None:
    one = [row for row in rows if row.variant.scope is not Scope.HEAD]

    assert "| carried, head trained |" in sweep_markdown(subject, one)


def test_the_plot_has_steps_above_milliseconds(
    rows: list[SweepRow],
) -> None:
    figure = sweep_figure("a sweep", rows)

    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["transductive", "support", "", ""]
    assert [axes.get_xlabel()[:12] for axes in figure.axes] == ["inner steps"] * 2 + [
        "milliseconds"
    ] * 2
    above = figure.axes[0]
    assert [label.get_text() for label in above.get_xticklabels()] == ["0", "1", "50"]
    lines = [line for line in above.get_lines() if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [[50, 50, 70]] * 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("carried", "head trained", "scope all", "scope head", "NIL")
    ]


def test_every_head_has_a_line(rows: list[SweepRow]) -> None:
    row = rows[1]
    each = [replace(row, variant=replace(row.variant, head=head)) for head in Head]

    (legend,) = sweep_figure("heads", each).legends

    assert [text.get_text() for text in legend.get_texts()][1:] == [f"head {head}" for head in Head]


def test_milliseconds_and_intervals_can_be_read_off(rows: list[SweepRow]) -> None:
    """Times between two powers of ten have ticks, and no shade is above 100 %."""
    spread = []
    for place, row in enumerate(rows):
        result = replace(row.result, ms_per_task=30.0 + 40 * place / len(rows), ci95=0.7)
        spread.append(replace(row, result=result))
    figure = sweep_figure("a sweep", spread)
    below = figure.axes[2]
    low, high = below.get_xlim()

    assert 50 in [place for place in below.get_xticks() if low <= place <= high]
    shades = [shade for shade in below.collections if isinstance(shade, PolyCollection)]
    heights = [height for shade in shades for height in shade.get_paths()[0].vertices[:, 1]]
    assert min(heights) >= 0
    assert max(heights) == 100
    assert figure.axes[0].get_ylim()[1] < 110
