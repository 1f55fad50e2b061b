"""What was wanted of pictures, and what was reached: the first table of docs/pictures.md."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from studies.common.page import table
from studies.common.results import Result, Row
from studies.pictures.gathered import Named
from studies.pictures.insights import ESTIMATE, UNKNOWN
from studies.pictures.measure import SetRow, read_set_rows
from studies.pictures.tail.page import points
from studies.pictures.tail.result import LEFT_OUT, MEAN, SERVED, SHIPPED, TAILS, contender_of
from studies.pictures.times import CALLERS, TIMES

MISSING = "not measured"
SHOTS = (5, 1)
FIGURES = Path(__file__).parent / "left_out.json"
Tables = Mapping[str, Named]
Reached = Callable[[Mapping[str, Result], Tables], str]


def summary(results: Mapping[str, Result], tables: Tables) -> str:
    """Lay out what was wanted beside what was measured."""
    lines = []
    for what, wanted, reached in WANTED:
        try:
            said = reached(results, tables)
        except (KeyError, ValueError):  # a result, or one of its contenders, is missing
            said = MISSING
        lines.append([what, wanted, said])
    return table(["", "wanted", "reached"], lines)


def _mean(contender: str) -> Reached:
    def reached(results: Mapping[str, Result], _tables: Tables) -> str:
        return _said(_mean_of(results, contender, shot) for shot in SHOTS)

    return reached


def _mean_of(results: Mapping[str, Result], contender: str, shot: int) -> float:
    rows = [_row(results, f"{name}-{shot}shot", contender) for name in _real()]
    return float(mean(row["accuracy"] for row in rows))


def _left_out(_results: Mapping[str, Result], _tables: Tables) -> str:
    return _said(map(_left_out_of, SHOTS))


def _left_out_of(shot: int) -> float:
    return float(json.loads(FIGURES.read_text())[f"{shot}-shot"]["mean"])


def _said(accuracies: Iterable[float]) -> str:
    return "/".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)


def _in_time(results: Mapping[str, Result], tables: Tables) -> str:
    """Return what says the head's accuracy on all tasks, and the tail's gain on some, added."""
    rows = _tails(tables, SHIPPED)
    heads = (_mean_of(results, "photos", shot) for shot in SHOTS)
    said = _said(head + row["ahead"] for head, row in zip(heads, rows, strict=True))
    return f"{said} ({', '.join(points(row, 'ahead') for row in rows)})"


def _in_time_left_out(_results: Mapping[str, Result], tables: Tables) -> str:
    rows, heads = _tails(tables, LEFT_OUT), map(_left_out_of, SHOTS)
    said = _said(head + row["left_out"] for head, row in zip(heads, rows, strict=True))
    return f"{said} ({', '.join(points(row, 'left_out') for row in rows)})"


def _tails(tables: Tables, head: str) -> Sequence[Row]:
    """Return the rows of the mean, with what a time budget of 20 s has room for."""
    return [tables[TAILS][f"{MEAN}-{shot}shot", contender_of(SERVED[shot], head)] for shot in SHOTS]


def _worst(results: Mapping[str, Result], _tables: Tables) -> str:
    """Return the worst set of both ways to ask, and the widest interval of all sets."""
    worst, widest = [], 0.0
    for contender in ("photos", "auto"):
        rows = {of.title: _row(results, f"{name}-5shot", contender) for name, of in _real().items()}
        title = min(rows, key=lambda title: rows[title]["ahead"])
        worst.append(f"{100 * rows[title]['ahead']:+.1f} ({title})")
        widest = max(widest, *(of["ahead_ci95"] for of in rows.values()))
    return f"{' and '.join(worst)}, ± {100 * widest:.1f}"


def _digits(results: Mapping[str, Result], _tables: Tables) -> str:
    found = (_row(results, f"digits-{shot}shot", "drawings")["accuracy"] for shot in SHOTS)
    return "/".join(f"{100 * accuracy:.1f}" for accuracy in found)


def _letters(results: Mapping[str, Result], _tables: Tables) -> str:
    differences = (
        _row(results, name, "drawings")["accuracy"] - _row(results, name, "hog-lr")["accuracy"]
        for name in ("letters-5shot", "letters-26way-5shot")
    )
    return "/".join(f"{100 * difference:+.1f}" for difference in differences)


def _canvases(results: Mapping[str, Result], _tables: Tables) -> str:
    shares = [
        _row(results, f"{name}-5shot", "drawings")["accuracy"]
        / _row(results, f"{name}-5shot", "drawings-reduced")["accuracy"]
        for name in read_set_rows(table="canvases")
    ]
    return f"{100 * min(shares):.1f}..{100 * max(shares):.1f} %"


def _estimates(_results: Mapping[str, Result], tables: Tables) -> str:
    rows = _five_shot(tables[ESTIMATE])
    differences = [100 * row["difference"] for row in rows]
    inside = [100 * row["inside"] for row in rows]
    width = 100 * mean(row["width"] for row in rows)
    return (
        f"{min(differences):+.1f}..{max(differences):+.1f}; "
        f"{min(inside):.0f}..{max(inside):.0f} %, mean width {width:.0f}"
    )


def _unknown(_results: Mapping[str, Result], tables: Tables) -> str:
    rows = _five_shot(tables[UNKNOWN])
    alarms = [100 * row["false_alarms"] for row in rows]
    score, ahead = (mean(row[column] for row in rows) for column in ("known_score", "ahead"))
    return f"{score:.3f}, {ahead:+.3f}; {min(alarms):.1f}..{max(alarms):.1f} %"


def _predict(_results: Mapping[str, Result], tables: Tables) -> str:
    (row,) = tables[CALLERS].values()
    return f"{row['predict_ms']:.1f} ms, {row['predict_to_encoder']:.2f}"


def _callers(_results: Mapping[str, Result], tables: Tables) -> str:
    (row,) = tables[CALLERS].values()
    return f"{row['to_one_model']:.2f}, {row['to_sessions']:.2f}"


def _adapt(trial: str, *contenders: str) -> Reached:
    def reached(_results: Mapping[str, Result], tables: Tables) -> str:
        found = (tables[TIMES][trial, name]["adapt_ms"] for name in contenders)
        return "/".join(f"{milliseconds:.0f} ms" for milliseconds in found)

    return reached


def _photographs(_results: Mapping[str, Result], tables: Tables) -> str:
    found = [tables[TIMES][f"{name}-5shot", "photos"]["adapt_ms"] for name in _real()]
    return f"{min(found):.0f}..{max(found):.0f} ms"


# What was wanted, of which issue 16 has the words, and how it is read from the results.
WANTED: Sequence[tuple[str, str, Reached]] = (
    ("mean of eight sets, `photos`, 5-shot/1-shot, %", "79/58", _mean("photos")),
    ("… each left out of choosing", "79/58", _left_out),
    ("… no model named", "79/58", _mean("auto")),
    ("… in 20 s (gain)", "83/62", _in_time),
    ("… in 20 s, each left out", "83/62", _in_time_left_out),
    ("worst set to best rival, `photos`, no model named", "-1, ± 1.5", _worst),
    ("digits, `drawings`, 5-shot/1-shot, %", "97/85", _digits),
    (
        "letters to HOG + LR, `drawings`, 5-way/26-way, 5-shot",
        "+2/+5",
        _letters,
    ),
    ("canvases, as sent to reduced", "95 %", _canvases),
    (
        "estimate less accuracy; accuracies in its 90 % interval",
        "-3..3; 85..95 %",
        _estimates,
    ),
    (
        "unknown classes: AUROC, to maximum probability; false alarms",
        "0.78, +0.03; 5..15 %",
        _unknown,
    ),
    ("Predict, one photograph, p50, to encoder", "15 ms, 1.3", _predict),
    ("64 models: rate to one model, to 64 encoders", "0.9, 1.2", _callers),
    ("Adapt, 25 photographs", "500 ms", _photographs),
    (
        "Adapt, 5 digits, `omniglot`/`drawings`, p50",
        "20 ms",
        _adapt("digits-1shot", "omniglot", "drawings"),
    ),
)


def _real() -> Mapping[str, SetRow]:
    return read_set_rows(table="pictures")


def _row(results: Mapping[str, Result], name: str, contender: str) -> Row:
    """Return a contender's row; raises `KeyError` where it was not measured."""
    return {row["contender"]: row for row in results[name].rows}[contender]


def _five_shot(found: Named) -> Sequence[Row]:
    """Return the rows of all real sets with five examples; raises `KeyError` for a missing one."""
    return [found[f"{name}-5shot", "photos"] for name in _real()]
