"""`benchmarks/calibration.py`: options, the file, and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from kshot.bench.calibration_rows import CALIBRATED, Row, calibration_block, measure_calibration
from kshot.bench.choosing_command import PAGE
from kshot.bench.evaluated_bundle import find_builtin, read_data
from kshot.bench.marked_page import write_blocks
from kshot.bench.options import choose_device
from kshot.bench.refusals import WrongUse, one_line
from kshot.bench.report import say
from kshot.trainer.errors import DataError
from kshot.trainer.progress import Progress
from kshot.trainer.replaced_file import replace_file

__all__ = ["command", "read_calibration"]

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "calibration.json"
# What the table and the tests read of a row.
KEYS = ("pair", "batch_norm", "tasks", "ece", "bundle_digest")


@click.command()
@click.option("--only", default="", help="Pairs, as cifar-fs-2shot.  [default: all]")
@click.option("--data", "data_folder", type=click.Path(path_type=Path), envvar="KSHOT_DATA")
@click.option("--tasks", "task_count", type=click.IntRange(min=1), help="[default: the pair's]")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--compile/--no-compile", "compiled", default=None)
@click.option("--again", is_flag=True, help="Measure what was measured before, too.")
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), help="The JSON file.")
@click.option("--page", is_flag=True, help="Write the page's table from the JSON, measure nothing.")
def command(
    only: str,
    data_folder: Path | None,
    task_count: int | None,
    device: str,
    compiled: bool | None,
    again: bool,
    out: Path,
    page: bool,
) -> None:
    """Measure pairs of bundle and data and keep what was found, or write the page."""
    with one_line():
        known = {pair.name: pair for pair in CALIBRATED}
        names = [name.strip() for name in only.split(",") if name.strip()] or list(known)
        for name in names:
            if name not in known:
                raise WrongUse(f"pair is {name!r}, wanted some of: {', '.join(known)}")
        if page:
            write_blocks(PAGE, {"calibration": calibration_block(read_calibration(out))})
            say(f"{PAGE.name} is written from {out}")
            return
        chosen = choose_device(device, threads=1)
        for pair in (known[name] for name in names):
            bundle = find_builtin(pair.bundle)
            before = [row for row in read_calibration(out) if row["pair"] == pair.name]
            asked = (bundle.digest, task_count or pair.task_count)
            if not again and before and (before[0]["bundle_digest"], before[0]["tasks"]) == asked:
                say(f"{pair.name}: measured before, --again measures it again")
                continue
            with Progress(f"{pair.name}: reading", "images") as progress:
                dataset = read_data(bundle, data_folder, other=pair.other, report=progress.update)
            with Progress(f"{pair.name}: adapting", "tasks") as progress:
                new = measure_calibration(
                    pair,
                    bundle,
                    dataset,
                    task_count,
                    device=chosen,
                    compiled=compiled,
                    say=say,
                    report=progress.update,
                )
            # What another run has written meanwhile stays.
            _write(out, [row for row in read_calibration(out) if row["pair"] != pair.name] + new)


def read_calibration(path: Path) -> list[Row]:
    """Read the rows of a file, none where it is missing; raises ``DataError`` for another file."""
    try:
        rows = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"results {path} cannot be read: {error}") from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and set(KEYS) <= set(row) for row in rows
    ):
        raise DataError(f"results {path} are no list of rows, each with {', '.join(KEYS)}")
    return rows


def _write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows in the order of the pairs, a line each; raises ``DataError``."""
    order = [pair.name for pair in CALIBRATED]
    ordered = sorted(
        (row for row in rows if row["pair"] in order), key=lambda row: order.index(str(row["pair"]))
    )
    lines = ",\n".join(f" {json.dumps(row)}" for row in ordered)
    try:
        replace_file(path, f"[\n{lines}\n]\n".encode())
    except OSError as error:
        raise DataError(f"results {path} could not be written: {error.strerror}") from error
