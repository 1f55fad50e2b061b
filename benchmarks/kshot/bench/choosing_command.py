"""`benchmarks/choosing.py`: options, files, and what is said on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from kshot.bench.choosing_page import page_blocks
from kshot.bench.choosing_pairs import PAIRS, Pair
from kshot.bench.choosing_plot import SIZE, draw_choices
from kshot.bench.choosing_rows import Sweep, check_sweep
from kshot.bench.choosing_run import Document, Setup, all_choices, document_json, measure_pair
from kshot.bench.choosing_settings import answers, pair_settings, sweep_command
from kshot.bench.evaluated_bundle import read_data
from kshot.bench.marked_page import write_blocks
from kshot.bench.measuring_options import Measuring, measuring_options
from kshot.bench.options import choose_device
from kshot.bench.refusals import WrongUse, one_line
from kshot.bench.report import say
from kshot.bundle import Bundle, BundleError, builtin_bundle, load_bundle, replace_file
from kshot.trainer.errors import DataError
from kshot.trainer.output.plotting import check_matplotlib, figure_of, write_png
from kshot.trainer.output.progress import Progress

__all__ = ["command", "read_document"]

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results" / "choosing"
PAGE = ROOT / "docs" / "choosing.md"


@click.command()
@measuring_options(
    RESULTS, "Pairs, as omniglot-1shot.  [default: all with a bundle]", "The folder."
)
@click.option("--queries", "query_count", type=click.IntRange(min=1), help="Per class.")
def command(measuring: Measuring, query_count: int | None) -> None:
    """Sweep pairs of bundle and data and keep what was found, or write the page."""
    out = measuring.out
    with one_line():
        check_matplotlib()
        chosen = _chosen(measuring.names)
        if measuring.page:
            _write_page(out)
            return
        _make_folder(out)
        for pair in PAIRS:
            _write_missing(pair, out)
        device = choose_device(measuring.device, threads=1)
        compiled = device.type == "cpu" if measuring.compiled is None else measuring.compiled
        for pair in chosen:
            bundle = _find(pair)
            if bundle is None:
                continue
            settings = pair_settings(pair, bundle.manifest, measuring.task_count, query_count)
            before = read_document(out, pair)
            axes = all_choices(bundle.manifest)
            asked = sweep_command(pair, settings, axes, compiled=compiled)
            if not measuring.again and answers(before, bundle, settings, asked):
                say(f"{pair.name}: measured before, --again measures it again")
                _write(out / f"{pair.name}.json", {**before, "bundle_digest": bundle.digest})
                continue
            folder = measuring.data_folder
            with Progress(f"{pair.name}: reading", "images") as progress:
                dataset = read_data(bundle, folder, other=pair.other, report=progress.update)
            with Progress(f"{pair.name}: sweeping", "tasks") as progress:
                setup = Setup(device, compiled, say, progress.update)
                document = measure_pair(pair, bundle, dataset, settings, axes, setup)
            _write(out / f"{pair.name}.json", document)
            _draw(out, pair, document)


def read_document(out: Path, pair: Pair) -> Document:
    """Read what is known of a pair; raises ``DataError`` where its file is none of ours."""
    path = out / f"{pair.name}.json"
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"results {path} cannot be read: {error}") from error
    if not isinstance(document, dict) or ("rows" in document) == ("not_measured" in document):
        raise DataError(f"results {path} have both rows and a reason for none, or neither")
    if "rows" in document:
        try:
            check_sweep(document)
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(f"results {path} hold no whole sweep: {error!r}") from error
    return document


def _chosen(names: Sequence[str]) -> Sequence[Pair]:
    """Return the pairs that were named, or all; raises ``WrongUse`` for one without a bundle."""
    known = {pair.name: pair for pair in PAIRS}
    for name in names:
        if name not in known:
            raise WrongUse(f"pair is {name!r}, wanted some of: {', '.join(known)}")
        if _find(known[name]) is None:
            raise WrongUse(f"{name} has no bundle: none named {known[name].bundle} ships")
    return [known[name] for name in names] or PAIRS


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"folder {path} could not be made: {error.strerror}") from error


def _find(pair: Pair) -> Bundle | None:
    try:
        folder = builtin_bundle(pair.bundle)
    except BundleError:
        return None
    return load_bundle(folder)


def _write_missing(pair: Pair, out: Path) -> None:
    """Say in a pair's file why it was not measured, where it was not."""
    path = out / f"{pair.name}.json"
    if path.exists() and "not_measured" not in read_document(out, pair):
        return
    reason = "the bundle has not been swept yet"
    if _find(pair) is None:
        reason = f"no bundle {pair.bundle} ships with the package yet"
    _write(path, {"pair": pair.name, "bundle": pair.bundle, "not_measured": reason})


def _write(path: Path, document: Document) -> None:
    try:
        replace_file(path, document_json(document).encode())
    except OSError as error:
        raise DataError(f"results {path} could not be written: {error.strerror}") from error


def _draw(out: Path, pair: Pair, document: Document) -> None:
    title = (
        f"{document['bundle']}: {document['way']}-way {document['shot']}-shot, "
        f"{document['tasks']} tasks of {document['data']}"
    )
    answers = int(str(document["tasks"])) * int(str(document["queries_per_task"]))
    draw = draw_choices(title, Sweep.of(document), answers)
    write_png(out / f"{pair.name}.png", figure_of(draw, width=SIZE[0], height=SIZE[1]))


def _write_page(out: Path) -> None:
    documents = {pair.name: read_document(out, pair) for pair in PAIRS}
    for pair in PAIRS:
        if "not_measured" not in documents[pair.name]:
            _draw(out, pair, documents[pair.name])
    write_blocks(PAGE, page_blocks(documents))
    say(f"{PAGE.name} and its pictures are written from {out}")
