"""`benchmarks/reproduction.py`: options, files, and what is said on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import torch

from kshot.bench.evaluated_bundle import find_builtin, read_data
from kshot.bench.marked_page import write_blocks
from kshot.bench.options import choose_device
from kshot.bench.refusals import one_line
from kshot.bench.report import say
from kshot.bench.reproduction_asked import ask, shipped_names
from kshot.bench.reproduction_checks import disagreements
from kshot.bench.reproduction_file import merged, read_rows, renewed, write_rows
from kshot.bench.reproduction_page import page_blocks
from kshot.bench.reproduction_rows import Row
from kshot.bench.reproduction_run import Asked, measure_target
from kshot.trainer.progress import Progress

__all__ = ["command"]

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction.json"
PAGE = ROOT / "docs" / "reproduction.md"


@click.command()
@click.option("--only", default="", help="Rows, as o15,o55-fomaml.  [default: all with a bundle]")
@click.option("--bundle", "given", multiple=True, metavar="RECIPE=PATH", help="Of a recipe's rows.")
@click.option("--data", "data_folder", type=click.Path(path_type=Path), envvar="KSHOT_DATA")
@click.option("--tasks", "task_count", type=click.IntRange(min=1), help="[default: the row's]")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--compile/--no-compile", "compiled", default=None)
@click.option("--again", is_flag=True, help="Measure what was measured before, too.")
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), help="The JSON file.")
@click.option(
    "--page", is_flag=True, help="Write the page's tables from the JSON, measure nothing."
)
def command(
    only: str,
    given: Sequence[str],
    data_folder: Path | None,
    task_count: int | None,
    device: str,
    compiled: bool | None,
    again: bool,
    out: Path,
    page: bool,
) -> None:
    """Measure rows and keep them, or write the page."""
    with one_line():
        shipped = shipped_names()
        asked = [] if page else ask(only, given, task_count)
        write_rows(out, merged(read_rows(out), [], shipped))
        if page:
            _write_page(read_rows(out))
            say(f"{PAGE.name} is written from {out}")
            return
        chosen = choose_device(device, threads=1)
        for one in asked:
            rows = None if again else renewed(read_rows(out), one)
            if rows is None:
                rows = _measure(one, data_folder, out, chosen, compiled)
            else:
                say(f"{one.target.name}: measured before, --again measures it again")
            # What another run has written meanwhile stays.
            write_rows(out, merged(read_rows(out), rows, shipped))


def _measure(
    one: Asked, data_folder: Path | None, out: Path, device: torch.device, compiled: bool | None
) -> list[Row]:
    """Measure a target, with progress on stderr, and say what was found."""
    name = one.target.name
    with Progress(f"{name}: reading {one.target.row}", "images") as progress:
        dataset = read_data(one.bundle, data_folder, report=progress.update)
    with Progress(f"{name}: adapting", "tasks") as progress:
        rows = measure_target(
            one,
            dataset,
            device=device,
            compiled=compiled,
            kept=out.with_name(f"{out.stem}.{name}.unfinished.json"),
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
