"""The table of docs/reliability.md, from the results that are there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import click

from studies.common.page import table, write_blocks
from studies.common.results import DOCS, RESULTS, Result, Row, read_result, result_path
from studies.reliability.proof import STUDY

PAGE = DOCS / "reliability.md"
HEAD = ("proof", "what it does", "what it found")
FLOOD_HEAD = ("flood", "p50, p99 idle [ms]", "beside it", "ratio of p99", "Adapt begins [s]")
NOT_MEASURED = "not measured yet"
_NO_FLOODS = (NOT_MEASURED, *[""] * (len(FLOOD_HEAD) - 1))
_DECODERS = ("kshot.bundle.images", "kshot.local.")
_VALIDATION = ("kshot.server.",)


@click.command(name="page")
def command() -> None:
    """Write the table of docs/reliability.md, from the kept results."""
    write_blocks(PAGE, blocks())


def blocks() -> Mapping[str, str]:
    """Return the page's tables."""
    path = result_path(STUDY, "quiet", RESULTS)
    rows = map(_flood_cells, read_result(path).rows) if path.exists() else [_NO_FLOODS]
    return {"proofs": table(HEAD, map(_cells, PROOFS)), "floods": table(FLOOD_HEAD, rows)}


def _cells(name: str) -> Sequence[str]:
    does, figure = PROOFS[name]
    path = result_path(STUDY, name, RESULTS)
    found = figure(read_result(path)) if path.exists() else NOT_MEASURED
    return f"`{name}`", does, found


def _flood_cells(row: Row) -> Sequence[str]:
    return (
        row["part"],
        f"{row['idle p50 [ms]']:.1f}, {row['idle p99 [ms]']:.1f}",
        f"{row['p50 [ms]']:.1f}, {row['p99 [ms]']:.1f}",
        f"{row['p99 ratio']:.1f}",
        f"{row['Adapt begins [s]']:.2f}",
    )


def _total(result: Result, column: str) -> int:
    return sum(row[column] for row in result.rows)


def _wrong(result: Result) -> str:
    faults = _total(result, "faults")
    return f"**{faults:,} {'fault' if faults == 1 else 'faults'}**" if faults else "0 faults"


def _churn(result: Result) -> str:
    callers = result.settings["callers"]
    return (
        f"{_total(result, 'requests'):,} requests of {callers} callers, "
        f"{_total(result, 'adapt'):,} adapted models: {_wrong(result)}"
    )


def _kills(result: Result) -> str:
    waits = {
        kind: [wait for row in result.rows for wait in row[f"{kind}_waits"]]
        for kind in ("engine", "engines")
    }
    text = (
        f"{_total(result, 'kills')} kills, {_total(result, 'acknowledged'):,} models, "
        f"{_total(result, 'checked'):,} questions afterwards: {_wrong(result)}"
    )
    for kind, name in (("engine", "an engine's death"), ("engines", "that of all")):
        if waits[kind]:
            text += f"; Adapt after {name}: {median(waits[kind]):.1f} s, at most "
            text += f"{max(waits[kind]):.1f}"
    return text


def _upgrade(result: Result) -> str:
    seconds = [each for row in result.rows for each in row["reload_seconds"]]
    return (
        f"{_total(result, 'swaps')} changes under {result.settings['callers']} callers, "
        f"{_total(result, 'adapted'):,} adapted models, {_total(result, 'answered'):,} answers, "
        f"{_total(result, 'again'):,} of models adapted again, {_total(result, 'changed'):,} "
        f"`MODEL_CHANGED`; a reload takes {median(seconds):.2f} s, at most {max(seconds):.2f}: "
        f"{_wrong(result)}"
    )


def _storms(result: Result) -> str:
    counts = ", ".join(f"{row['count']:,} {row['part']}" for row in result.rows)
    memory = max(row["front_mb"] + row["engine_mb"] for row in result.rows)
    return f"{counts}; at most {memory:.0f} MiB kept: {_wrong(result)}"


def _fuzz(result: Result) -> str:
    past = _total(result, "past_parsing") / _total(result, "inputs")
    slowest = max(row["slowest_ms"] for row in result.rows)
    text = (
        f"{_total(result, 'inputs'):,} inputs, {past:.0%} past parsing, the slowest "
        f"{slowest:.0f} ms: {_wrong(result)}"
    )
    covered = [row["branches"] for row in result.rows if row["branches"]]
    if covered:
        text += f"; branches taken: decoders {_share(covered[0], _DECODERS)}, "
        text += f"validation {_share(covered[0], _VALIDATION)}"
    return text


def _share(branches: Mapping[str, Sequence[int]], prefixes: tuple[str, ...]) -> str:
    chosen = [counts for module, counts in branches.items() if module.startswith(prefixes)]
    return f"{sum(taken for taken, _ in chosen) / sum(known for _, known in chosen):.0%}"


def _quiet(result: Result) -> str:
    worst = max(row["p99 ratio"] for row in result.rows)
    return (
        f"{len(result.rows)} floods, {result.settings['calls']:,} quiet calls beside each: p99 at "
        f"most {worst:.1f} times its idle value: {_wrong(result)}"
    )


def _encrypted(result: Result) -> str:
    (row,) = result.rows
    least, greatest = row["more, quartiles [ms]"]
    return (
        f"{result.settings['rounds']} rounds of {result.settings['calls']} calls: p50 "
        f"{row['plain p50 [ms]']:.2f} ms, {row['secured p50 [ms]']:.2f} with both; in a round "
        f"{row['more [ms]']:.2f} more, quartiles {least:.2f} and {greatest:.2f}: {_wrong(result)}"
    )


def _tenants(result: Result) -> str:
    rows = {row["part"]: row for row in result.rows}
    floods = [row for name, row in rows.items() if name.startswith("flood")]
    worst = max(row["p99 [ms]"] / row["idle p99 [ms]"] for row in floods)
    repeated, full = rows["duplicates"], rows["full queue"]
    return (
        f"p99 beside another tenant's flood at most {worst:.1f} times its idle value; "
        f"{repeated['requests']} equal requests made {repeated['models']} model; "
        f"{full['requests']:,} refusals by a full queue took {full['p99 [ms]']:.1f} ms "
        f"(p99): {_wrong(result)}"
    )


def _soak(result: Result) -> str:
    (row,) = result.rows

    def slope(name: str, unit: str) -> str:
        value, width = row[f"{name}_per_hour"], row[f"{name}_per_hour_ci95"]
        digits = 1 if math.isfinite(width) else 0
        return f"{value:+.{digits}f} ± {width:.{digits}f} {unit}"

    return (
        f"{row['minutes']:g} minutes, {row['requests']:,} requests; in an hour: front "
        f"{slope('front_mb', 'MiB')}, engine {slope('engine_mb', 'MiB')}, descriptors "
        f"{slope('descriptors', '')}".rstrip()
        + f": {_wrong(result)}"
    )


PROOFS: Mapping[str, tuple[str, Callable[[Result], str]]] = {
    "churn": ("checks each answer to callers at once against the model's serial one", _churn),
    "kills": ("kills engine, front or both at random moments under load", _kills),
    "upgrade": ("takes versions of a bundle away and brings them back under load", _upgrade),
    "storms": ("cancels, hangs up, gives 1 ms, overfills the queue, sends garbage", _storms),
    "fuzz": ("sends changed bytes to all that reads what others wrote", _fuzz),
    "quiet": ("floods the server and measures another client", _quiet),
    "tenants": ("floods from another tenant, repeats requests, fills the queue", _tenants),
    "encrypted": ("compares Predict with TLS and a key and without both", _encrypted),
    "soak": ("loads a server for long and watches what it holds", _soak),
}
