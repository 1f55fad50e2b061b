"""`kshot watch`: the classes of files as they come into a folder."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from kshot.client.client import Client
from kshot.client.commands.answers import NONE_OF_THESE, Answer, answers
from kshot.client.commands.classify import Question, Room, classify
from kshot.client.commands.images_below import find_images
from kshot.client.commands.names import complete_ids
from kshot.client.commands.options import Server, server_options, timeout_option
from kshot.client.errors import DeadlineExceededError, QuotaExceededError, UnavailableError
from kshot.local import printable, stdout_lost

_LONGEST_WAIT_S = 30.0
_TOP = 3
_GONE = (UnavailableError, DeadlineExceededError, QuotaExceededError)
Stamp = tuple[int, int]  # bytes, and time of change


@dataclass
class Inbox:
    """The files of a folder: which are done, and which have come to rest.

    A file counts once it is the same in two looks, and again when it changes.
    """

    folder: Path
    done: dict[Path, Stamp] = field(default_factory=dict)
    _seen: dict[Path, Stamp] = field(default_factory=dict)

    def ready(self, *, at_once: bool = False) -> list[Path]:
        """Look, and return the files that are to be classified; raises `InputError`."""
        found = {path: stamp for path in find_images(self.folder).files if (stamp := _stamp(path))}
        before, self._seen = self._seen, found
        self.done = {path: stamp for path, stamp in self.done.items() if path in found}
        return [
            path
            for path, stamp in found.items()
            if self.done.get(path) != stamp and (at_once or before.get(path) == stamp)
        ]

    def finish(self, files: Iterable[Path]) -> None:
        """Note that files, as they were in the last look, are done."""
        self.done |= {path: self._seen[path] for path in files}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "adapted_model",
    required=True,
    metavar="ID",
    shell_complete=complete_ids,
    help="The adapted model that classifies.",
)
@server_options()
@click.option(
    "--once", is_flag=True, help="Classify the files that are there, and end; 1 if any is refused."
)
@click.option("--new-only", is_flag=True, help="Leave out the files that are there at the start.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks; a file counts when it did not change from one to the next.",
)
@click.option(
    "--reject-below",
    type=click.FloatRange(0, 1),
    help="Refuse images whose known score is below this rate of false alarms, such as 0.1.",
)
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
def command(
    folder: Path,
    adapted_model: str,
    server: Server,
    once: bool,
    new_only: bool,
    interval: float,
    reject_below: float | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Classify the images of FOLDER and its subfolders as they come, a line for each.

    A file is classified when it is complete, and again when it changes. While the server cannot
    be reached, files wait. Ctrl-C and SIGTERM end the command, which then says how many it
    classified.
    """
    if once and new_only:
        raise click.UsageError("--once cannot be combined with --new-only")
    inbox = Inbox(folder)
    if new_only:
        inbox.finish(inbox.ready(at_once=True))
    show = _show_json if as_json else _show_text
    question = Question(adapted_model, None, reject_below)
    with server.client(timeout) as client:
        if once:
            ready = inbox.ready(at_once=True)
            room = room_for(client, question)
            if work_off(Work(client, question, room, show), inbox, ready):
                click.get_current_context().exit(1)
            return
        counts: Counter[bool] = Counter()

        def count(file: Path, found: Answer | str) -> None:
            show(file, found)
            counts[isinstance(found, str)] += 1

        with interrupted_by_sigterm(), suppress(KeyboardInterrupt):
            watch(client, question, inbox, interval, count)
        click.echo(f"stopped: {counts[False]} files classified, {counts[True]} refused", err=True)


Show = Callable[[Path, Answer | str], None]


@dataclass(frozen=True)
class Work:
    """How files are classified, and where their answers, or the reasons against them, go."""

    client: Client
    question: Question
    room: Room
    show: Show


def room_for(client: Client, question: Question) -> Room:
    """Return what a request may hold; raise `KshotError` also where the model does not exist."""
    return Room.of(client, client.get(question.adapted_model).description.model)


def work_off(work: Work, inbox: Inbox, ready: Sequence[Path]) -> bool:
    """Classify files and note each that is done; tell whether some were refused."""
    refused = False
    for part in classify(work.client, work.question, ready, work.room):
        if part.prediction is not None:
            for answer in answers(part.files, part.prediction, _TOP):
                work.show(answer.file, answer)
        for file, why in part.refused.items():
            work.show(file, why)
            refused = True
        inbox.finish((*part.files, *part.refused))
    return refused


def watch(client: Client, question: Question, inbox: Inbox, interval: float, show: Show) -> None:
    """Classify files as they come until nobody reads the answers.

    A server that cannot be reached is asked again, at most every 30 seconds. Raises `KshotError`
    for what waiting does not mend.
    """
    room: Room | None = None
    wait, said = interval, False
    while not stdout_lost():
        try:
            room = room or room_for(client, question)
            if said:
                click.echo("the server answers again", err=True)
            wait, said = interval, False
            work_off(Work(client, question, room, show), inbox, inbox.ready())
        except _GONE as error:
            if not said:
                click.echo(printable(f"waiting: {error}; no file is lost"), err=True)
            wait = min(_LONGEST_WAIT_S, max(2 * wait, error.retry_after or 0.0))
            room, said = None, True  # the next one may have other limits
        time.sleep(wait)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_text(file: Path, found: Answer | str) -> None:
    name = click.format_filename(file)
    if isinstance(found, str):
        click.echo(printable(f"{name}: {found}"), err=True)
    else:
        share = "-" if found.refused else f"{found.best[0][1]:.3f}"
        click.echo(printable(f"{found.label or NONE_OF_THESE}  {share}  {name}"))


def _show_json(file: Path, found: Answer | str) -> None:
    refused = {"file": str(file), "error": found}
    click.echo(json.dumps(refused if isinstance(found, str) else found.document()))


def _stamp(path: Path) -> Stamp | None:
    """Return what changes with a file's content; None for one that is empty or gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if status.st_size else None
