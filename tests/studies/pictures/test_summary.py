from studies.common.results import Provenance, Result
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


def line(text: str, what: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {what}")]
    return found


def test_what_is_missing_is_said() -> None:
    lines = summary({}, {}).splitlines()[2:]

    assert len(lines) == len(WANTED)
    assert [line for line in lines if not line.endswith(f"| {MISSING} |")] == [
        "| … with a budget of 20 s, 5-shot / 1-shot | 83 / 62 | not built |"
    ]


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
        "callers": {("64 callers", "photos"): {**row, "to_one_model": 0.97, "to_sessions": 1.3}},
    }

    text = summary(found, tables)

    assert "| 78.8; " in line(text, "mean of the eight sets, 5-shot")
    assert line(text, "worst set").endswith("| -0.4 ± 1.0 (waste), widest ± 1.0 |")
    assert line(text, "letters").endswith("| +5.0 / +0.0 |")
    assert line(text, "Predict").endswith("| 14.2 ms, 1.21 |")
    assert line(text, "rate of 64").endswith("| 0.97, 1.30 |")
    assert line(text, "Adapt, 5-way 1-shot").endswith("| 12 ms / 12 ms |")
