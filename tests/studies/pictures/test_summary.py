from studies.common.results import Provenance, Result, Row
from studies.pictures.measure import read_set_rows
from studies.pictures.summary import MISSING, WANTED, summary

MADE_WITH = Provenance("", None, [0], None, {})


def result(name: str, **rows: tuple[float, float]) -> Result:
    found = [
        {
            "contender": of.replace("_", "-"),
            "accuracy": accuracy,
            "ahead": ahead,
            "ahead_ci95": 0.01,
        }
        for of, (accuracy, ahead) in rows.items()
    ]
    return Result("pictures", name, MADE_WITH, {}, found)


def adapted(head: float, ahead: float) -> Row:
    intervals = {"ahead_ci95": 0.005, "left_out_ci95": 0.005}
    return {"head": head, "ahead": ahead, "left_out": 0.01, "adapted": 0.7, **intervals}


def line(text: str, what: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {what}")]
    return found


def test_what_is_missing_is_said() -> None:
    lines = summary({}, {}).splitlines()[2:]

    assert len(lines) == len(WANTED)
    known = [line for line in lines if not line.endswith(f"| {MISSING} |")]
    assert [line.split(" | ")[0] for line in known] == ["| … each left out of choosing"]


def test_what_was_reached_is_read_from_the_results() -> None:
    real = read_set_rows(table="pictures")
    names = {f"{name}-{shot}shot" for name in real for shot in (1, 5)}
    found = {name: result(name, photos=(0.8, 0.02), auto=(0.8, 0.01)) for name in names}
    found["waste-5shot"] = result("waste-5shot", photos=(0.7, -0.004), auto=(0.8, 0.01))
    for name, drawings in (("letters-5shot", 0.95), ("letters-26way-5shot", 0.9)):
        found[name] = result(name, drawings=(drawings, 0.0), hog_lr=(0.9, 0.0))
    row = {"adapt_ms": 12.0, "predict_ms": 14.2, "predict_to_encoder": 1.21}
    tables = {
        "times": {("digits-1shot", name): row for name in ("omniglot", "drawings")},
        "tails": {
            ("mean-1shot", "20-steps"): adapted(0.58, 0.02),
            ("mean-5shot", "folds-of-12"): adapted(0.82, 0.015),
            ("mean-1shot", "20-steps-left-out"): adapted(0.57, 0.02),
            ("mean-5shot", "folds-of-12-left-out"): adapted(0.81, 0.015),
        },
        "callers": {("64 callers", "photos"): {**row, "to_one_model": 0.97, "to_sessions": 1.3}},
    }

    text = summary(found, tables)

    assert line(text, "mean of eight sets").endswith("| 78.8/80.0 |")
    assert line(text, "… in 20 s (gain)").endswith("| 80.3/82.0 (+1.5 ± 0.5, +2.0 ± 0.5) |")
    assert line(text, "… in 20 s, each").endswith(" (+1.0 ± 0.5, +1.0 ± 0.5) |")
    assert line(text, "worst set").endswith("| -0.4 (waste) and +1.0 (blood cells), ± 1.0 |")
    assert line(text, "letters").endswith("| +5.0/+0.0 |")
    assert line(text, "Predict").endswith("| 14.2 ms, 1.21 |")
    assert line(text, "64 models").endswith("| 0.97, 1.30 |")
    assert line(text, "Adapt, 5 digits").endswith("| 12 ms/12 ms |")
