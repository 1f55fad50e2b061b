"""Classifies many files in requests that a server takes, and keeps what it refuses apart."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.client.client import Client
from kshot.client.commands.folder import check_files
from kshot.client.errors import (
    InputError,
    InvalidArgumentError,
    KshotError,
    QuotaExceededError,
    ResourceExhaustedError,
)
from kshot.client.results import Prediction

_MOST_FILES = 64  # in a request: progress is seen, and others get their turn
_QUERY = re.compile(r"query (?P<index>\d+): ")
_MOST_SHARE = 0.8  # of a message: the rest is for what is around the files


@dataclass(frozen=True)
class Question:
    """How to classify: with which adapted model, and how."""

    adapted_model: str
    batch_norm_mode: str | None = None
    reject_below: float | None = None


@dataclass(frozen=True)
class Room:
    """What a request may hold: so many files, and so many bytes of them."""

    file_count: int = _MOST_FILES
    byte_count: int = 3 * 10**6

    @classmethod
    def of(cls, client: Client, model: str) -> Room:
        """Ask a server; `model` is that which the adapted one is from, served or not."""
        found = client.capabilities()
        served = found.models.get(model)
        counts = (found.max_predict_image_count, served.max_query_count if served else 0)
        file_count = min((_MOST_FILES, *(count for count in counts if count)))
        size = int(_MOST_SHARE * found.max_message_bytes)
        return cls(file_count, size or cls.byte_count)

    def batches(self, files: Sequence[Path]) -> Iterator[list[Path]]:
        """Divide files, in their order, into what one request may hold; one is always let in."""
        batch: list[Path] = []
        size = 0
        for file in files:
            more = _size(file)
            if batch and (len(batch) == self.file_count or size + more > self.byte_count):
                yield batch
                batch, size = [], 0
            batch.append(file)
            size += more
        if batch:
            yield batch


@dataclass(frozen=True)
class Answered:
    """The answer to some files in one request, or the reasons why files cannot be classified."""

    files: tuple[Path, ...]
    prediction: Prediction | None
    refused: dict[Path, str]


def classify(
    client: Client, question: Question, files: Sequence[Path], room: Room
) -> Iterator[Answered]:
    """Classify files, a request after another, until each is answered or refused.

    What is together too much for a request is divided. Raises `KshotError` for what has another
    cause than the files; those that have not been yielded are unanswered then.
    """
    waiting = deque(room.batches(files))
    while waiting:
        good, refused = _readable(waiting.popleft())
        if refused:
            yield Answered((), None, refused)
        if not good:
            continue
        try:
            prediction = client.predict(
                question.adapted_model,
                good,
                batch_norm_mode=question.batch_norm_mode,
                reject_below=question.reject_below,
            )
        except (InputError, InvalidArgumentError, ResourceExhaustedError) as error:
            refused, parts = _divided(error, good)
            waiting.extendleft(reversed(parts))
            if refused:
                yield Answered((), None, refused)
        else:
            yield Answered(tuple(good), prediction, {})


def _divided(error: KshotError, files: list[Path]) -> tuple[dict[Path, str], list[list[Path]]]:
    """Return which files an error refuses, and what to ask again; raise it if they are not why."""
    if refused := _named(error, files):
        rest = [file for file in files if file not in refused]
        return refused, [rest] if rest else []
    if isinstance(error, InputError | QuotaExceededError) or _of_question(error):
        raise error
    if len(files) == 1:
        return {files[0]: str(error)}, []
    half = len(files) // 2
    return {}, [files[:half], files[half:]]


def _readable(files: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Return the files that can be sent, and why the others cannot."""
    good, refused = [], {}
    for file in files:
        try:
            check_files([file])
        except InputError as error:
            refused[file] = str(error).removeprefix(f"{file}: ")
        else:
            good.append(file)
    return good, refused


def _named(error: KshotError, files: Sequence[Path]) -> dict[Path, str]:
    """Return the files that an error names, with what it says of them."""
    if match := _QUERY.match(str(error)):  # this machine's own word
        file = files[int(match["index"])]
        return {file: str(error)[match.end() :].removeprefix(f"{file}: ")}
    said = {each.subject: each.description for each in error.violations if each.subject}
    return {file: said[str(file)] for file in files if str(file) in said}


def _of_question(error: KshotError) -> bool:
    """Tell whether an error is about something else than the files, whatever they are."""
    fields = {each.field.partition("[")[0].partition(".")[0] for each in error.violations}
    return bool(fields) and "queries" not in fields


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
