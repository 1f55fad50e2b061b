"""`benchmarks/reproduction.py`: options, files, and what is said on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import torch

from kshot.bench.evaluated_bundle import find_builtin, read_data
from kshot.bench.marked_page import write_blocks
from kshot.bench.measuring_options import Measuring, measuring_options
from kshot.bench.options import choose_device
from kshot.bench.refusals import one_line
from kshot.bench.report import say
from kshot.bench.reproduction_asked import ask, shipped_names
from kshot.bench.reproduction_checks import disagreements
from kshot.bench.reproduction_file import merged, read_rows, renewed
from kshot.bench.reproduction_page import page_blocks
from kshot.bench.reproduction_run import Asked, measure_target
from kshot.bench.row_file import Row, write_row_file
from kshot.trainer.output.progress import Progress

__all__ = ["command"]

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction.json"
PAGE = ROOT / "docs" / "reproduction.md"


@click.command()
@measuring_options(
    RESULTS, "Rows, as o15,o55-fomaml.  [default: all with a bundle]", "The JSON file."
)
@click.option("--bundle", "given", multiple=True, metavar="RECIPE=PATH", help="Of a recipe's rows.")
def command(measuring: Measuring, given: Sequence[str]) -> None:
    """Measure rows and keep them, or write the page."""
    out = measuring.out
    with one_line():
        shipped = shipped_names()
        asked = [] if measuring.page else ask(measuring.names, given, measuring.task_count)
        write_row_file(out, merged(read_rows(out), [], shipped))
        if measuring.page:
            _write_page(read_rows(out))
            say(f"{PAGE.name} is written from {out}")
            return
        device = choose_device(measuring.device, threads=1)
        for one in asked:
            rows = None if measuring.again else renewed(read_rows(out), one)
            if rows is None:
                rows = _measure(one, measuring, device)
            else:
                say(f"{one.target.name}: measured before, --again measures it again")
            # What another run has written meanwhile stays.
            write_row_file(out, merged(read_rows(out), rows, shipped))


def _measure(one: Asked, measuring: Measuring, device: torch.device) -> list[Row]:
    """Measure a target, with progress on stderr, and say what was found."""
    name = one.target.name
    with Progress(f"{name}: reading {one.target.row}", "images") as progress:
        dataset = read_data(one.bundle, measuring.data_folder, report=progress.update)
    with Progress(f"{name}: adapting", "tasks") as progress:
        rows = measure_target(
            one,
            dataset,
            device=device,
            compiled=measuring.compiled,
            kept=measuring.out.with_name(f"{measuring.out.stem}.{name}.unfinished.json"),
            say=say,
            report=progress.update,
        )
    for row in rows:
        say(f"{name}: {row['batch_norm']} {row['accuracy']:.4f} ± {row['ci95']:.4f}")
    return rows


def _write_page(rows: Sequence[Row]) -> None:
    """Write the tables of the page, and say what does not fit together."""
    write_blocks(PAGE, page_blocks(rows))
    for sentence in disagreements(rows, find_builtin):
        say(sentence)
