"""`benchmarks/calibration.py`: options, the file, and the page."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from kshot.bench.calibration_rows import (
    CALIBRATED,
    calibration_block,
    is_whole,
    measure_calibration,
    renewed_calibration,
)
from kshot.bench.choosing_command import PAGE
from kshot.bench.choosing_pairs import Pair
from kshot.bench.evaluated_bundle import find_builtin, read_data
from kshot.bench.marked_page import write_blocks
from kshot.bench.measuring_options import Measuring, measuring_options
from kshot.bench.options import choose_device
from kshot.bench.refusals import WrongUse, one_line
from kshot.bench.report import say
from kshot.bench.row_file import Row, read_row_file, write_row_file
from kshot.trainer.output.progress import Progress

__all__ = ["command", "read_calibration"]

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "calibration.json"
# What the table and the tests read of a row.
KEYS = ("pair", "batch_norm", "tasks", "ece", "adaptation_digest", "temperature", "command")


@click.command()
@measuring_options(RESULTS, "Pairs, as cifar-fs-2shot.  [default: all]", "The JSON file.")
def command(measuring: Measuring) -> None:
    """Measure pairs of bundle and data and keep what was found, or write the page."""
    known, out = {pair.name: pair for pair in CALIBRATED}, measuring.out
    with one_line():
        for name in measuring.names:
            if name not in known:
                raise WrongUse(f"pair is {name!r}, wanted some of: {', '.join(known)}")
        if measuring.page:
            write_blocks(PAGE, {"calibration": calibration_block(read_calibration(out))})
            say(f"{PAGE.name} is written from {out}")
            return
        device, order = choose_device(measuring.device, threads=1), list(known)
        write_row_file(out, read_calibration(out))  # so that it is known to be possible
        for name in measuring.names or known:
            rows = _measure(known[name], measuring, device)
            # What another run has written meanwhile stays.
            rows += [row for row in read_calibration(out) if row["pair"] != name]
            write_row_file(out, sorted(rows, key=lambda row: order.index(str(row["pair"]))))


def read_calibration(path: Path) -> list[Row]:
    """Read the rows of a file, none where it is missing; raises ``DataError`` for another file."""
    known = {pair.name for pair in CALIBRATED}
    return [row for row in read_row_file(path, KEYS, is_whole) if row["pair"] in known]


def _measure(pair: Pair, measuring: Measuring, device: torch.device) -> list[Row]:
    """Return a pair's rows, those of before where they answer what is asked for."""
    bundle, before = find_builtin(pair.bundle), None
    if not measuring.again:
        kept = read_calibration(measuring.out)
        before = renewed_calibration(kept, pair, bundle, measuring.task_count)
    if before is not None:
        say(f"{pair.name}: measured before, --again measures it again")
        return before
    folder = measuring.data_folder
    with Progress(f"{pair.name}: reading", "images") as progress:
        dataset = read_data(bundle, folder, other=pair.other, report=progress.update)
    with Progress(f"{pair.name}: adapting", "tasks") as progress:
        return measure_calibration(
            pair,
            bundle,
            dataset,
            measuring.task_count,
            device=device,
            compiled=measuring.compiled,
            say=say,
            report=progress.update,
        )
