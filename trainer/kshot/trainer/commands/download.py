"""`kshot download`: a data set from its author, checked."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from kshot.trainer.commands.options import DATA
from kshot.trainer.commands.requests import argument, option, takes
from kshot.trainer.datasets.download import OMNIGLOT_URL, download_omniglot
from kshot.trainer.output.progress import Progress

_BYTES_PER_KB = 1000


@dataclass(frozen=True)
class DownloadRequest:
    """The options as they were given."""

    dataset: str = argument("DATASET", type=click.Choice(["omniglot"]))
    data_folder: Path | None = option(flag="--data", **DATA)
    base_url: str = option(
        "Where images_background.zip and images_evaluation.zip are.",
        "--url",
        default=OMNIGLOT_URL,
        metavar="URL",
    )


@click.command("download")
@takes(DownloadRequest)
def command(request: DownloadRequest) -> None:
    """Download DATASET (omniglot, 15 MB) into the data folder, which is created if missing.

    Every drawing is checked; complete files are kept. Prints the files that were downloaded.
    """
    dataset, data_folder = request.dataset, request.data_folder
    if data_folder is None:
        raise click.UsageError(
            "no data folder is named: give --data DIR or set KSHOT_DATA to the folder for the "
            "archives"
        )
    with ExitStack() as bars:
        shown: dict[str, Progress] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in shown:
                bars.close()  # a terminal holds one bar
                shown[name] = bars.enter_context(Progress(f"downloading {name}", "kB"))
            shown[name].update(done // _BYTES_PER_KB, total // _BYTES_PER_KB)

        made = download_omniglot(data_folder, base_url=request.base_url, report=report)
    if not made:
        click.echo(f"{data_folder} already has {dataset}: nothing was downloaded", err=True)
    for path in made:
        click.echo(path)
