"""Reads every row and file of a store without a change, and tells what is healthy and what not."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kshot.server.errors import StartError
from kshot.server.store.clock import StoreClock
from kshot.server.store.content import content_digest, described
from kshot.server.store.files import StoreFiles
from kshot.server.store.folder import INDEX_FILE, LOCK_FILE, in_use
from kshot.server.store.recovery import may_be_whole, replaces
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.rows import DAMAGED, WRITTEN, Row
from kshot.server.store.tables.salvage import copy_index

# What a server works with as it is; everything else is for `kshot store repair`.
SOUND = ("healthy", "expired", "quarantined", "leftover", "unfinished", "foreign")

_ENDED = "it ended with its server; the next start removes it"


@dataclass(frozen=True)
class Finding:
    """One adapted model: its id, the model it was adapted from, its state, and why."""

    id: str
    model: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """What is wrong with the index, "" if nothing, and the state of each model."""

    index: str
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Return how many models are in each state."""
        return dict(Counter(finding.state for finding in self.findings))

    @property
    def sound(self) -> bool:
        """Tell whether there is nothing to repair."""
        return not self.index and all(each.state in SOUND for each in self.findings)


def check_store(path: Path) -> Report:
    """Compare every row and every file of a store with its digest; raise `StartError`."""
    if not (path / INDEX_FILE).exists() and not (path / "models").is_dir():
        raise StartError(f"{path}: expected the folder of a store, found none; name another one")
    try:
        with _locked(path), tempfile.TemporaryDirectory() as scratch:
            copy = copy_index(path / INDEX_FILE, Path(scratch))
            try:
                index = StoreIndex(copy, create=False)
            except StartError as error:
                problem = str(error).replace(str(copy.parent), str(path))
                return Report(problem, tuple(_findings(StoreFiles(path), None)))
            try:
                return Report("", tuple(_findings(StoreFiles(path), index)))
            finally:
                index.close()
    except OSError as error:
        raise StartError(f"{path}: cannot read the store: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StartError(f"{path}: cannot read a copy of the index: {error}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep servers out while the block runs; raise `StartError` if one is in."""
    lock = path / LOCK_FILE
    if not lock.exists():
        yield
        return
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise in_use(path) from error
    finally:
        os.close(descriptor)


def _findings(files: StoreFiles, index: StoreIndex | None) -> Iterator[Finding]:
    found = files.find()
    known: set[object] = set()
    now = StoreClock.of_machine(index.seen() if index else None).now()
    for gone, deleted in sorted(found.gone.items()):
        known.add(gone)
        why = "deleted" if deleted else "expired"
        yield Finding(gone, "", "leftover", f"{why}; the next start removes its row")
    rows_lost = index is None
    for _, model_id, row in index.rows() if index else ():
        rows_lost |= row is None
        if model_id in found.gone:
            continue
        known.add(model_id)
        if row is None:
            yield Finding(str(model_id), "", "damaged", "its row in the index was changed")
        else:
            unfinished = row.id in found.partial and (
                row.id not in found.models or replaces(files, row.id, row)
            )
            yield _of_row(row, files, now, unfinished=unfinished)
    graves = {grave.id for _, _, grave in index.tombstones() if grave} if index else set()
    for model_id in sorted(found.models - known):
        if model_id in graves:
            yield Finding(model_id, "", "leftover", "deleted; the next start removes its file")
        else:
            yield _of_file(model_id, files)
    for model_id in sorted(found.partial - found.models - known - graves) if rows_lost else ():
        if may_be_whole(files, model_id):
            yield Finding(model_id, "", "orphaned", "no row; its file is whole, without its name")
    for model_id in sorted(found.memory - known):
        yield Finding(model_id, "", "leftover", _ENDED)
    for _, _, request in index.requests() if index else ():
        if request is None:
            why = "the answer to a request id was changed; the next start removes it"
            yield Finding("", "", "leftover", why)
    for path in found.foreign:
        name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
        yield Finding(name, "", "foreign", "no file of ours")


def _of_row(row: Row, files: StoreFiles, now: float, *, unfinished: bool) -> Finding:
    if row.state == WRITTEN:
        return Finding(row.id, row.model, "unfinished", "the next start keeps it if it is whole")
    if row.state == DAMAGED:
        return Finding(row.id, row.model, "quarantined", "known to be damaged")
    if row.expire_time <= now:
        return Finding(row.id, row.model, "expired", "the next sweep removes it")
    if unfinished:
        return Finding(row.id, row.model, "unfinished", "the next start gives its file its name")
    try:
        whole = content_digest(files.read(row.id)) == row.sha256
    except FileNotFoundError:
        if row.in_memory:
            return Finding(row.id, row.model, "leftover", _ENDED)
        return Finding(row.id, row.model, "damaged", "its file is missing")
    except OSError as error:
        return Finding(row.id, row.model, "unreadable", str(error.strerror))
    return (
        Finding(row.id, row.model, "healthy")
        if whole
        else Finding(row.id, row.model, "damaged", "its file was changed")
    )


def _of_file(model_id: str, files: StoreFiles) -> Finding:
    try:
        model = described(files.read(model_id))
    except ValueError:
        return Finding(model_id, "", "orphaned", "no row, and no whole record in its file")
    except OSError as error:
        return Finding(model_id, "", "unreadable", str(error.strerror))
    return Finding(model_id, model.model, "orphaned", "no row; its file is whole and has one")
