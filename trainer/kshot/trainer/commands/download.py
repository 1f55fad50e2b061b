"""`kshot download`: a data set from its author, checked."""

import json
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import click

from kshot.trainer.commands.options import data_option
from kshot.trainer.datasets.download import OMNIGLOT_URL, download_omniglot
from kshot.trainer.output.progress import Progress

_BYTES_PER_KB = 1000


@click.command("download")
@click.argument("dataset", type=click.Choice(["omniglot"]), metavar="DATASET")
@data_option
@click.option(
    "--url",
    "base_url",
    default=OMNIGLOT_URL,
    show_default=True,
    metavar="URL",
    help="Where images_background.zip and images_evaluation.zip are.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(dataset: str, data_folder: Path | None, base_url: str, as_json: bool) -> None:
    """Download DATASET (omniglot, 15 MB) into the data folder, which is created if missing.

    Every drawing is checked; complete files are kept. Prints the files that were downloaded.
    """
    if data_folder is None:
        raise click.UsageError(
            "no data folder is named: give --data DIR or set KSHOT_DATA to the folder for the "
            "archives"
        )
    with ExitStack() as bars:

        @cache
        def bar(name: str) -> Progress:
            bars.close()  # a terminal holds one bar
            return bars.enter_context(Progress(f"downloading {name}", "kB"))

        def report(name: str, done: int, total: int) -> None:
            bar(name).update(done // _BYTES_PER_KB, total // _BYTES_PER_KB)

        made = download_omniglot(data_folder, base_url=base_url, report=report)
    if not made:
        click.echo(f"{data_folder} already has {dataset}: nothing was downloaded", err=True)
    if as_json:
        click.echo(json.dumps({"dataset": dataset, "files": [str(path) for path in made]}))
        return
    for path in made:
        click.echo(path)
