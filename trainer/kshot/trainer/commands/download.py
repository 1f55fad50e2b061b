"""`kshot download`: a data set from its author, checked."""

from contextlib import ExitStack
from pathlib import Path

import click

from kshot.trainer.commands.options import data_option
from kshot.trainer.datasets.download import OMNIGLOT_URL, download_omniglot
from kshot.trainer.output.progress import Progress

__all__ = ["command"]

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
def command(dataset: str, data_folder: Path | None, base_url: str) -> None:
    """Download DATASET (omniglot, 15 MB) into the data folder, which is made where there is none.

    Every drawing is checked; what is there already is left alone. Prints the files that came.
    """
    if data_folder is None:
        raise click.UsageError(
            "no data folder is named, wanted --data DIR or KSHOT_DATA: where to put the archives"
        )
    with ExitStack() as bars:
        shown: dict[str, Progress] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in shown:
                bars.close()  # a terminal holds one bar
                shown[name] = bars.enter_context(Progress(f"downloading {name}", "kB"))
            shown[name].update(done // _BYTES_PER_KB, total // _BYTES_PER_KB)

        made = download_omniglot(data_folder, base_url=base_url, report=report)
    if not made:
        click.echo(f"{data_folder} has {dataset} already: nothing was downloaded", err=True)
    for path in made:
        click.echo(path)
