"""Brings index and files together when a store opens: after a crash, or with bits flipped.

Nothing whole is lost and nothing is deleted unless a tombstone, a missing row, or a row that is
only `WRITTEN` proves that nobody is to have it, or it was to end with its process. A row comes
before the name of its file, so a file with its name and without a row is a model whose row was
lost: it gets a new one from its own record, or goes to quarantine. Power may fail before a name is
on disk: where rows were lost, a whole file without its name is one, too.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from kshot.server.event_log import log_event
from kshot.server.store.content import content_digest, described
from kshot.server.store.files import Found, StoreFiles, checked_id
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.rows import DAMAGED, WHOLE, WRITTEN, Row, Tombstone

# How long an id answers that it is damaged if nothing tells when it was to expire.
_UNKNOWN_SECONDS = 30 * 24 * 3600.0


def recover(
    files: StoreFiles,
    index: StoreIndex,
    now: float,
    *,
    read_all: bool = False,
    rebuilt: bool = False,
) -> Counter[str]:
    """Mend what a crash or a flipped bit left; return how many of each kind were mended.

    `read_all` compares every file with its digest; an index that was `rebuilt` may lack rows.
    Raises `OSError` and `sqlite3.Error`.
    """
    return _Recovery(files, index, now).run(read_all=read_all, rebuilt=rebuilt)


class _Recovery:
    def __init__(self, files: StoreFiles, index: StoreIndex, now: float) -> None:
        self._files, self._index, self._now = files, index, now
        self._found: Found = files.find()
        self._rows: dict[str, Row] = {}
        self._places: dict[str, int] = {}
        self._places_of_requests: dict[str, int] = {}  # by the id of a row that may be dropped
        self._changed: dict[str, Row] = {}
        self._lost_rows: list[int] = []
        self._lost_tombstones: list[int] = []
        self._lost_requests: list[int] = []
        self._lost_ids: set[str] = set()
        self._dropped: set[str] = set()  # ids that nobody has heard of, or may ask for any more
        self._buried: dict[str, Tombstone] = {}
        self._unsure: set[str] = set()  # ids that may be deleted
        self._done: Counter[str] = Counter()

    def run(self, *, read_all: bool, rebuilt: bool) -> Counter[str]:
        self._read_index()
        rows_lost = rebuilt or bool(self._lost_rows)
        new_graves = self._bury_what_is_gone()
        self._name_what_is_written(rows_lost=rows_lost)
        for model_id, row in self._rows.items():
            self._check(row, present=model_id in self._found.models, read_all=read_all)
        dead = self._found.models & self._buried.keys()
        for model_id in self._found.models - self._rows.keys() - dead:
            self._adopt(model_id)
        self._lost_ids -= self._found.memory
        for model_id in self._lost_ids - self._rows.keys() - self._changed.keys() - dead:
            self._changed[model_id] = self._unknown(model_id)
        self._files.clear_partial()
        # Before the rows: without one a file counts as lost.
        self._files.remove(self._dropped | self._found.memory)
        self._index.change(
            tuple(self._changed.values()),
            new_graves,
            lost_rows=self._lost_rows,
            lost_tombstones=self._lost_tombstones,
            lost_requests=self._lost_requests,
        )
        aside = self._found.quarantined & self._buried.keys()
        self._files.remove(dead | aside | self._found.gone.keys())
        if self._done:
            log_event("store_mended", logging.WARNING, **self._done)
        return self._done

    def _read_index(self) -> None:
        for place, model_id, row in self._index.rows():
            if row is not None and _valid(row.id):
                self._rows[row.id], self._places[row.id] = row, place
                continue
            self._lost_rows.append(place)
            self._done["lost_rows"] += 1
            if _valid(model_id):
                self._lost_ids.add(str(model_id))
        for place, model_id, grave in self._index.tombstones():
            if grave is not None:
                self._buried[grave.id] = grave
                continue
            self._lost_tombstones.append(place)
            self._done["lost_tombstones"] += 1
            self._unsure.add(str(model_id))
        for place, _, request in self._index.requests():
            if request is None:
                self._lost_requests.append(place)
                self._done["lost_requests"] += 1
            elif request.adapted_model in self._found.memory:
                self._lost_requests.append(place)
            elif (row := self._rows.get(request.adapted_model)) and (
                row.state == WRITTEN or row.id not in self._found.models
            ):
                self._places_of_requests[row.id] = place

    def _bury_what_is_gone(self) -> list[Tombstone]:
        """Return tombstones for rows whose files say that they are gone."""
        graves = []
        for model_id, deleted in self._found.gone.items():
            row = self._rows.pop(model_id, None)
            if row is not None:
                self._lost_rows.append(self._places[model_id])
                times = (row.expire_time, self._now)
                graves.append(Tombstone(model_id, *times, int(deleted), row.tenant or ""))
            elif model_id not in self._buried:
                graves.append(Tombstone(model_id, self._now, self._now, int(deleted)))
            self._lost_ids.discard(model_id)
        self._buried |= {grave.id: grave for grave in graves}
        return graves

    def _name_what_is_written(self, *, rows_lost: bool) -> None:
        for model_id in self._found.partial - self._buried.keys():
            row = self._rows.get(model_id)
            known = row is not None or model_id in self._lost_ids
            if model_id in self._found.models or (row and row.state == WRITTEN):
                if not replaces(self._files, model_id, row):
                    continue
            elif not known and not (rows_lost and may_be_whole(self._files, model_id)):
                continue
            self._files.finish(model_id)
            self._found = replace(self._found, models=self._found.models | {model_id})
            self._done["finished"] += 1

    def _check(self, row: Row, *, present: bool, read_all: bool) -> None:
        """Compare a row with its file, which is read if there is doubt."""
        if row.state == WRITTEN:
            self._settle(row, present=present)
        elif not present:
            if row.in_memory:
                self._drop(row)
            elif row.state == WHOLE:
                self._changed[row.id] = replace(row, state=DAMAGED)
                self._done["damaged"] += 1
        elif not row.sha256:
            self._adopt(row.id)
        elif read_all or row.state == DAMAGED:
            content = self._read(row.id)
            if content is None:
                return
            state = WHOLE if content_digest(content) == row.sha256 else DAMAGED
            if state == DAMAGED:
                self._files.quarantine(row.id)
            if state != row.state:
                self._changed[row.id] = replace(row, state=state)
                self._done["damaged" if state == DAMAGED else "whole_again"] += 1

    def _settle(self, row: Row, *, present: bool) -> None:
        """Keep a model that was being written if it is whole; drop it with its request if not."""
        content = self._read(row.id) if present else b""
        if content is None:
            return
        if content and content_digest(content) == row.sha256:
            self._changed[row.id] = replace(row, state=WHOLE)
            return
        self._drop(row)

    def _drop(self, row: Row) -> None:
        self._dropped.add(row.id)
        self._lost_rows.append(self._places[row.id])
        if row.id in self._places_of_requests:
            self._lost_requests.append(self._places_of_requests[row.id])

    def _adopt(self, model_id: str) -> None:
        """Make the row of a file that has none, or move the file aside."""
        content = self._read(model_id)
        if content is None:
            return
        try:
            model = described(content)
        except ValueError:
            model = None
        if model is not None and model.id == model_id and model_id not in self._unsure:
            self._changed[model_id] = Row.of(model, content_digest(content))
            self._done["rows_from_files"] += 1
            return
        self._files.quarantine(model_id)
        self._changed[model_id] = self._unknown(model_id)

    def _read(self, model_id: str) -> bytes | None:
        """Return a file's content; None leaves alone what cannot be read now: it may be whole."""
        try:
            return self._files.read(model_id)
        except OSError as error:
            self._done["unreadable"] += 1
            log_event("store_failed", logging.ERROR, problem=str(error.strerror))
            return None

    def _unknown(self, model_id: str) -> Row:
        self._done["damaged"] += 1
        return Row.unknown(model_id, (self._now, self._now + _UNKNOWN_SECONDS))


def replaces(files: StoreFiles, model_id: str, row: Row | None) -> bool:
    """Tell whether a file without its name is newer than the one that has it.

    The row says so, or if it is lost, that the newer one is whole.
    """
    try:
        content = files.read_partial(model_id)
        if row is not None:
            return bool(row.sha256) and content_digest(content) == row.sha256
        return described(content).id == model_id
    except (OSError, ValueError):
        return False


def may_be_whole(files: StoreFiles, model_id: str) -> bool:
    """Tell whether a file without its name has its own record, or cannot be read now."""
    try:
        return described(files.read_partial(model_id)).id == model_id
    except ValueError:
        return False
    except OSError:
        return True


def _valid(model_id: object) -> bool:
    try:
        return isinstance(model_id, str) and bool(checked_id(model_id))
    except ValueError:
        return False
