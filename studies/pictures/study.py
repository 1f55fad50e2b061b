"""Measure every bundle on pictures that people have, beside what they would otherwise use.

python studies/pictures/study.py [--data DIR] [--only grocery,digits] [--fonts DIR]
python studies/pictures/study.py [--data DIR] --times | --insights
python studies/pictures/study.py --page
python studies/pictures/study.py --folder DIR --out DIR

Sets and drawings are answered as sent, on one core. All contenders solve the same tasks. A stopped
run goes on where it was. `--times` measures milliseconds alone, through servers, on a few tasks of
each set, `--insights` only what adapted models say of themselves. `--page` measures nothing; it
writes docs/pictures.md, its picture, and all tables beside the results.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kshot.bench.serve.server_process import interrupted_by_signals
from kshot.local import write_file
from kshot.trainer.commands.options import choose_data_folder
from kshot.trainer.errors import DataError
from studies.common.page import write_blocks
from studies.common.results import (
    DOCS,
    RESULTS,
    Result,
    read_result,
    read_results,
    result_path,
)
from studies.common.runner import FOLDER, Found, Options, Work, chosen, run_work, say, study_options
from studies.pictures.contenders import Contender, Kind, read_contenders
from studies.pictures.drawn import SYSTEM_FONTS, canvases, digits, letters
from studies.pictures.gathered import STUDY, Named, read_rows
from studies.pictures.insights import ESTIMATE, PHOTOS, UNKNOWN, run_insights
from studies.pictures.measure import (
    KEPT,
    Measured,
    SetRow,
    Trial,
    left_out,
    measure,
    one_core,
    read_set_rows,
    result_rows,
)
from studies.pictures.page import draw_overview, page_blocks
from studies.pictures.sets import PictureSet, read_archive, read_folder
from studies.pictures.solvers import opened
from studies.pictures.tables import all_tables, result_names
from studies.pictures.tail.page import draw_curve
from studies.pictures.tail.result import TAILS
from studies.pictures.times import CALLERS, TIMES, run_times, timed_rows

FONTS_HELP = "Folder with fonts; may be repeated.  [default: the system's]"
FOLDER_HELP = "Measure the class folders in DIR instead of the rows; needs its own --out."
BY_HELP = "Contenders to measure, separated by commas; the others' results stay.  [default: all]"
TIMES_HELP = "Measure milliseconds instead of accuracy; the machine should be idle."
INSIGHTS_HELP = "Measure estimates and unknown classes alone."
BUNDLE_HELP = "Let this bundle compete too; may be repeated; needs its own --out."
# The tasks and contenders of a folder are those of this row.
LIKE = "grocery"


@dataclass(frozen=True)
class Places:
    """Where pictures and fonts are read from."""

    data_folder: Path | None
    fonts: tuple[Path, ...]
    folder: Path | None

    def read(self, row: SetRow) -> PictureSet:
        """Read or draw the pictures of a row; raises `DataError` and `UsageError`."""
        if self.folder is not None:
            return read_folder(self.folder)
        kind, *numbers = row.source.split(":")
        if kind == "digits":
            return digits()
        if kind == "letters":
            return letters(self.fonts)
        data_folder = choose_data_folder(self.data_folder)
        if kind == "canvas":
            side, pen = map(int, numbers)
            return canvases(data_folder, side, pen)
        return read_archive(data_folder / "pictures" / kind, grouped=bool(row.grouped))


@click.command()
@study_options
@click.option("--fonts", multiple=True, type=FOLDER, metavar="DIR", help=FONTS_HELP)
@click.option("--folder", type=FOLDER, metavar="DIR", help=FOLDER_HELP)
@click.option("--bundle", "bundles", multiple=True, metavar="DIR", help=BUNDLE_HELP)
@click.option("--by", default="", metavar="NAMES", help=BY_HELP)
@click.option("--times", is_flag=True, help=TIMES_HELP)
@click.option("--insights", is_flag=True, help=INSIGHTS_HELP)
def command(
    options: Options,
    fonts: tuple[Path, ...],
    folder: Path | None,
    bundles: Sequence[str],
    by: str,
    times: bool,
    insights: bool,
) -> None:
    """Measure rows and keep what was found, or write the page."""
    if options.page:
        write_page(options.out)
        return
    if (folder or bundles) and options.out.resolve() == RESULTS.resolve():
        raise click.UsageError("--folder and --bundle must not replace the results; add --out DIR")
    given = {path: Contender(Path(path).name, f"`{path}`", Kind.SERVED, path) for path in bundles}
    known = {**read_contenders(), **{one.name: one for one in given.values()}}
    asked = chosen(known, replace(options, only=by), "--by")
    rows = chosen(read_set_rows(), options)
    if folder is not None:
        rows = [replace(read_set_rows()[LIKE], name=folder.resolve().name, source=str(folder))]
    also = tuple(one.name for one in given.values())
    rows = [replace(row, contenders=(*row.contenders, *also)) for row in rows]
    places = Places(options.data_folder, fonts or SYSTEM_FONTS, folder)
    with one_core(held=times), interrupted_by_signals():
        if times:
            timed = [row for row in rows if row.name in timed_rows()]
            run_times(list(trials(timed, places, options)), asked, options)
            return
        found = list(trials(rows, places, options))
        if not insights:
            run(found, asked, known, options)
        if folder is None and known[PHOTOS] in asked:
            run_insights(found, known[PHOTOS], options)


def trials(rows: Sequence[SetRow], places: Places, options: Options) -> Iterator[Trial]:
    """Yield the trials of rows; says which are left out, and why."""
    for row in rows:
        try:
            pictures = places.read(row)
        except DataError as error:
            say(f"{row.name}: left out; {error}")
            continue
        for shot, task_count in zip(row.shots, row.task_counts, strict=True):
            trial = Trial(row, shot, options.task_count or task_count, pictures)
            try:
                if trial.tasks:
                    yield trial
            except DataError as error:
                say(f"{trial.name}: left out; {error}")


def run(
    asked: Sequence[Trial],
    contenders: Sequence[Contender],
    known: Mapping[str, Contender],
    options: Options,
) -> None:
    """Let one contender after another solve all trials; those that take few tasks come last.

    Results are written after each of them; those of others that are known stay.
    """
    found = {trial.name: kept(trial, options.out) for trial in asked}
    for contender in sorted(contenders, key=lambda one: one.task_count is not None):
        name = contender.name
        own = [trial for trial in asked if name in trial.row.contenders]
        try:
            again = options.again
            new = [one for one in own if again or _stale(one, contender, found[one.name])]
            if new:
                with opened(contender) as make:
                    for trial in new:
                        found[trial.name].pop(name, None)
                        with left_out(f"{trial.name}: {name}"):
                            done = measure(trial, contender, make, again=again)
                            found[trial.name][name] = done
                            write(trial, found[trial.name], known, options)
        except DataError as error:
            say(f"left out; {error}")
            for trial in own:
                found[trial.name].pop(name, None)
    for trial in asked:
        write(trial, found[trial.name], known, options)


def _stale(trial: Trial, contender: Contender, found: Mapping[str, Measured]) -> bool:
    of = found.get(contender.name)
    return of is None or of.key != trial.key(contender)


def write(
    trial: Trial, found: Mapping[str, Measured], known: Mapping[str, Contender], options: Options
) -> None:
    """Write the result of a trial, of those who solved it."""
    of = {name: found[name] for name in trial.row.contenders if name in found}
    if of:
        run_work(STUDY, work(trial, of, known), options)


def kept(trial: Trial, folder: Path) -> dict[str, Measured]:
    """Return what a kept result has, by contender."""
    path = result_path(STUDY, trial.name, folder)
    more = read_result(path).more if path.exists() else {KEPT: {}}
    return {name: Measured.read(document) for name, document in more[KEPT].items()}


def work(trial: Trial, of: Mapping[str, Measured], known: Mapping[str, Contender]) -> Work:
    """Return the result of a trial: what decides it, and its rows."""
    settings = {
        **trial.deciding(),
        "source": Path(trial.row.source).name,
        "contenders": {name: measured.key for name, measured in of.items()},
    }

    def rows() -> Found:
        more = {KEPT: {name: measured.document() for name, measured in of.items()}}
        return result_rows(of, known, trial.query_count), more

    command = f"python studies/pictures/study.py --data DATA --only {trial.row.name}"
    return Work(trial.name, command, settings, rows)


def write_page(folder: Path) -> None:
    """Draw the picture, and write the page and all tables from the kept results."""
    results, tables = kept_results(folder), kept_tables(folder)
    if results:
        draw_overview(result_path(STUDY, "overview", folder).with_suffix(".png"), results)
    if tables[TAILS]:
        draw_curve(result_path(STUDY, TAILS, folder).with_suffix(".png"), tables)
    path = tables_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, all_tables(results, tables).encode())
    write_blocks(DOCS / "pictures.md", page_blocks(results, tables))


def tables_path(folder: Path) -> Path:
    """Return where all tables are written."""
    return result_path(STUDY, "tables", folder).with_suffix(".md")


def kept_results(folder: Path) -> Mapping[str, Result]:
    """Return the results of trials that were measured, by name."""
    with suppress(FileNotFoundError):
        return read_results(STUDY, result_names(), folder)
    return {}


def kept_tables(folder: Path) -> Mapping[str, Named]:
    """Return the results that are gathered row by row, by name."""
    names = (TIMES, CALLERS, ESTIMATE, UNKNOWN, TAILS)
    return {name: read_rows(name, folder) for name in names}


if __name__ == "__main__":
    command()
