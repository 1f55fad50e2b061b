from collections.abc import Mapping

from studies.common.results import Provenance, Result
from studies.pictures.measure import KEPT, read_set_rows
from studies.pictures.tables import NOTHING, all_tables, result_names


def result_of(name: str, **accuracies: float) -> Result:
    rows = [
        {
            "contender": contender.replace("_", "-"),
            "tasks": 300,
            "accuracy": accuracy,
            "ci95": 0.01,
            "rival": "hog-lr" if contender.startswith("omniglot") else None,
            "ahead": accuracy - accuracies["hog_lr"] if contender.startswith("omniglot") else None,
            "ahead_ci95": 0.05 if contender.startswith("omniglot") else None,
        }
        for contender, accuracy in accuracies.items()
    ]
    made_with = Provenance("python studies/pictures/study.py", None, [0], None, {})
    more = {KEPT: {"auto": {"chosen": {"photos": 299, "drawings": 1}}}}
    return Result("pictures", name, made_with, {}, rows, more)


def results(*names: str) -> Mapping[str, Result]:
    return {name: result_of(name, omniglot=0.5, hog_lr=0.6) for name in names}


def section(text: str, head: str) -> list[str]:
    """Return the lines of a section's table, or its last line."""
    lines = text.split(f"## {head}\n")[1].split("\n## ")[0].strip().splitlines()
    return [line for line in lines if line.startswith("|")] or lines[-1:]


def test_tables_without_results_say_so() -> None:
    text = all_tables({}, {})

    heads = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert len(heads) == 12
    assert all(section(text, head) == [NOTHING] for head in heads)
    assert {"grocery-20shot", "digits-1shot", "letters-26way-5shot"} <= set(result_names())


def test_means_are_over_the_real_sets() -> None:
    sets = list(read_set_rows(table="pictures"))
    names = [*(f"{name}-5shot" for name in sets), *(f"{name}-20shot" for name in sets[1:])]

    found = section(all_tables(results(*names), {}), "Means over the eight sets")

    assert found[0] == "|  | 1 example (0 sets) | 5 examples (8 sets) | 20 examples (7 sets) |"
    # the half width of eight independent means
    assert found[2:] == [
        "| `omniglot` | - | 50.0 ± 0.4 | 50.0 ± 0.4 |",
        "| HOG + LR | - | 60.0 ± 0.4 | 60.0 ± 0.4 |",
    ]


def test_mean_is_over_the_measured_sets() -> None:
    all_sets = [f"{name}-5shot" for name in read_set_rows(table="pictures")]

    text = all_tables(results(*all_sets, "spoken-digits-speakers-5shot"), {})

    found = section(text, "Accuracy, 5 examples")
    assert "| grocery | 50.0 ± 1.0 | **60.0 ± 1.0** |" in found
    # the half width of eight independent means
    assert found[-1] == "| mean of 8 sets | 50.0 ± 0.4 | 60.0 ± 0.4 |"


def test_bundles_are_compared() -> None:
    text = all_tables(results("grocery-1shot", "grocery-5shot"), {})

    assert section(text, "Against the best rival") == [
        "|  | examples | best rival | `omniglot` |",
        "| --- | --- | --- | --- |",
        "| grocery | 1 | HOG + LR | **-10.0 ± 5.0** |",
        "| grocery | 5 | HOG + LR | **-10.0 ± 5.0** |",
    ]
    assert section(text, "Model left out")[-1] == "| grocery, 5 examples | 1 | 299 |"
    assert section(text, "Drawings") == section(text, "Estimates") == [NOTHING]


def test_times_are_medians_over_sets() -> None:
    times = {
        (f"{name}-{shot}shot", "photos"): {"adapt_ms": 100.0 * shot, "predict_ms": predict}
        for name, predict in (("grocery", 2.0), ("waste", 3.0))
        for shot in (1, 5)
    }

    text = all_tables({}, {"times": times})

    assert section(text, "Milliseconds on one core")[2:] == ["| `photos` | 100 | 500 | 2.5 |"]


def test_what_models_say_of_themselves_is_laid_out() -> None:
    key = ("sound-events-5shot", "photos")
    estimate = {
        "estimate": 0.9,
        "accuracy": 0.88,
        "difference": 0.02,
        "ci95": 0.01,
        "inside": 0.9,
        "inside_of_all_others": 0.95,
        "width": 0.3,
    }
    unknown = {
        "known_score": 0.75,
        "ci95": 0.01,
        "probability": 0.71,
        "ahead": 0.04,
        "ahead_ci95": 0.01,
        "false_alarms": 0.08,
        "refused": 0.3,
    }

    text = all_tables({}, {"estimate": {key: estimate}, "unknown": {key: unknown}})

    assert section(text, "Estimates")[-1].endswith(
        "| 5 | 90.0 | 88.0 | +2.0 ± 1.0 | 90 | 95 | 30 |"
    )
    assert section(text, "Unknown classes")[-1].endswith(
        "| 0.750 ± 0.010 | 0.710 | +0.040 ± 0.010 | 8.0 | 30.0 |"
    )


def test_canvases_have_the_share_of_reduced_pictures() -> None:
    found = result_of("canvas-105-3-5shot", omniglot=0.45, omniglot_reduced=0.9, hog_lr=0.6)

    *_, line = section(all_tables({found.name: found}, {}), "Canvases")

    assert line.startswith("| 105 pixels, pen 3 | 45.0 ± 1.0 | **90.0 ± 1.0** | 60.0 ± 1.0 |")
    assert line.endswith("| 50 % |")
