"""What was wanted of pictures, and what was reached: the first table of docs/pictures.md."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from studies.common.page import table
from studies.common.results import Result, Row
from studies.pictures.gathered import Named
from studies.pictures.insights import ESTIMATE, UNKNOWN
from studies.pictures.measure import SetRow, read_set_rows
from studies.pictures.times import CALLERS, TIMES

MISSING = "not measured yet"
LEFT_OUT = Path(__file__).parent / "left_out.json"
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


def _mean(contender: str, shot: int) -> Reached:
    def reached(results: Mapping[str, Result], _tables: Tables) -> str:
        found = mean(_row(results, f"{name}-{shot}shot", contender)["accuracy"] for name in _real())
        if contender != "photos":
            return f"{100 * found:.1f}"
        left_out = json.loads(LEFT_OUT.read_text())[f"{shot}-shot"]["mean"]
        return f"{100 * found:.1f}; {100 * left_out:.1f} on sets left out of choosing"

    return reached


def _worst(contender: str) -> Reached:
    def reached(results: Mapping[str, Result], _tables: Tables) -> str:
        rows = {of.title: _row(results, f"{name}-5shot", contender) for name, of in _real().items()}
        title = min(rows, key=lambda title: rows[title]["ahead"])
        row = rows[title]
        widest = max(of["ahead_ci95"] for of in rows.values())
        return (
            f"{100 * row['ahead']:+.1f} ± {100 * row['ahead_ci95']:.1f} ({title}), "
            f"widest ± {100 * widest:.1f}"
        )

    return reached


def _digits(results: Mapping[str, Result], _tables: Tables) -> str:
    found = (_row(results, f"digits-{shot}shot", "drawings")["accuracy"] for shot in (5, 1))
    return " / ".join(f"{100 * accuracy:.1f}" for accuracy in found)


def _letters(results: Mapping[str, Result], _tables: Tables) -> str:
    differences = (
        _row(results, name, "drawings")["accuracy"] - _row(results, name, "hog-lr")["accuracy"]
        for name in ("letters-5shot", "letters-26way-5shot")
    )
    return " / ".join(f"{100 * difference:+.1f}" for difference in differences)


def _canvases(results: Mapping[str, Result], _tables: Tables) -> str:
    shares = [
        _row(results, f"{name}-5shot", "drawings")["accuracy"]
        / _row(results, f"{name}-5shot", "drawings-reduced")["accuracy"]
        for name in read_set_rows(table="canvases")
    ]
    return f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %"


def _estimates(_results: Mapping[str, Result], tables: Tables) -> str:
    rows = _five_shot(tables[ESTIMATE])
    differences = [100 * row["difference"] for row in rows]
    inside = [100 * row["inside"] for row in rows]
    width = 100 * mean(row["width"] for row in rows)
    return (
        f"{min(differences):+.1f} to {max(differences):+.1f}; {min(inside):.0f} to "
        f"{max(inside):.0f} % (mean width {width:.0f})"
    )


def _unknown(_results: Mapping[str, Result], tables: Tables) -> str:
    rows = _five_shot(tables[UNKNOWN])
    alarms = [100 * row["false_alarms"] for row in rows]
    score, ahead = (mean(row[column] for row in rows) for column in ("known_score", "ahead"))
    return f"{score:.3f}, {ahead:+.3f}; {min(alarms):.1f} to {max(alarms):.1f} %"


def _predict(_results: Mapping[str, Result], tables: Tables) -> str:
    (row,) = tables[CALLERS].values()
    return f"{row['predict_ms']:.1f} ms, {row['predict_to_encoder']:.2f}"


def _callers(_results: Mapping[str, Result], tables: Tables) -> str:
    (row,) = tables[CALLERS].values()
    return f"{row['to_one_model']:.2f}, {row['to_sessions']:.2f}"


def _adapt(trial: str, *contenders: str) -> Reached:
    def reached(_results: Mapping[str, Result], tables: Tables) -> str:
        found = (tables[TIMES][trial, name]["adapt_ms"] for name in contenders)
        return " / ".join(f"{milliseconds:.0f} ms" for milliseconds in found)

    return reached


def _photographs(_results: Mapping[str, Result], tables: Tables) -> str:
    found = [tables[TIMES][f"{name}-5shot", "photos"]["adapt_ms"] for name in _real()]
    return f"{min(found):.0f} to {max(found):.0f} ms"


def _not_built(_results: Mapping[str, Result], _tables: Tables) -> str:
    return "not built"


# What was wanted, of which issue 16 has the words, and how it is read from the results.
WANTED: Sequence[tuple[str, str, Reached]] = (
    ("mean of the eight sets, 5-shot, `photos`, %", "79", _mean("photos", 5)),
    ("… 1-shot", "58", _mean("photos", 1)),
    ("… model left out, 5-shot", "79", _mean("auto", 5)),
    ("… model left out, 1-shot", "58", _mean("auto", 1)),
    ("… with a budget of 20 s, 5-shot / 1-shot", "83 / 62", _not_built),
    ("worst set against its best rival, 5-shot, `photos`, points", "-1, ± 1.5", _worst("photos")),
    ("… model left out", "-1, ± 1.5", _worst("auto")),
    ("digits by `drawings`, 5-shot / 1-shot, %", "97 / 85", _digits),
    (
        "letters by `drawings` against HOG + LR, 5-way / 26-way 5-shot, points",
        "+2 / +5",
        _letters,
    ),
    ("canvases, as sent to reduced", "95 %", _canvases),
    (
        "estimate less accuracy by set, points; accuracies in its 90 % interval",
        "-3 to 3; 85 to 95 %",
        _estimates,
    ),
    (
        "unknown classes: AUROC, to the maximum probability's; false alarms at 0.1",
        "0.78, +0.03; 5 to 15 %",
        _unknown,
    ),
    ("Predict of one photograph, p50, to the encoder alone", "15 ms, 1.3", _predict),
    ("rate of 64 models to one model, to 64 encoder sessions", "0.9, 1.2", _callers),
    ("Adapt of 25 photographs, by set", "500 ms", _photographs),
    (
        "Adapt, 5-way 1-shot, `omniglot` / `drawings`, p50",
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
