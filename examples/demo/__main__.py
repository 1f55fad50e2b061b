"""Adapt to digits and to photographs through one server, beside simple classifiers: `make demo`.

Digits are scikit-learn's, sent as they are: 8x8 pixels, bright on dark. Photographs are squares of
the pictures in scikit-image's package; a class is a picture, and no two of its squares overlap.
`--pictures FOLDER` takes your own photographs, one subfolder per class. All contenders solve the
same tasks. `--picture FILE` draws one task of digits instead of the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from examples.demo.contest import add_row, measure, new_table
from examples.demo.figure import draw_picture
from examples.demo.pictures import (
    QUERY_COUNT,
    SHOTS,
    WAY,
    Subject,
    digits,
    own_pictures,
    scenes,
)
from examples.demo.server import running_server
from kshot.client import Client

TABLE_COLUMNS = 118
CALL_TIMEOUT_S = 60.0


def compare(client: Client, subjects: Sequence[Subject]) -> None:
    """Print the table of the subjects whose model is served, and how to get the other models."""
    console = Console()
    console.width = max(console.width, TABLE_COLUMNS)
    table, served = new_table(), client.capabilities().models
    for subject in subjects:
        if subject.model in served:
            for shot in SHOTS:
                add_row(table, subject, shot, measure(client, subject, shot))
            table.add_section()
    console.print(table)
    for subject in subjects:
        if subject.model not in served:
            console.print(
                f"No {subject.title}: `{subject.model}` is not served. To build it: "
                f"kshot bundle build {subject.model}",
                highlight=False,
            )
    counts = ", ".join(f"{subject.task_count} of {subject.title}" for subject in subjects)
    console.print(
        f"Up to {WAY} classes, and up to {QUERY_COUNT} queries of each. Tasks: {counts}.\n"
        "Milliseconds are kshot's, medians of whole calls; predict sends one picture.",
        highlight=False,
    )


def main(arguments: list[str] | None = None) -> int:
    """Start a server and print the table, or draw the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description="Adapt to digits and photographs."
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="your own photographs")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw one task to this file")
    asked = parser.parse_args(arguments)
    photographs = scenes() if asked.pictures is None else own_pictures(asked.pictures)
    with running_server() as address, Client(address, tls=False, timeout=CALL_TIMEOUT_S) as client:
        if asked.picture is None:
            compare(client, [digits(), photographs])
        else:
            draw_picture(client, asked.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
