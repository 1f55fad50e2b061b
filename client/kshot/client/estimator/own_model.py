"""Adapted models that end with their handles."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue

from kshot.client.adapted_model import AdaptedModel
from kshot.client.client import Client
from kshot.client.errors import KshotError
from kshot.client.estimator.shared_client import Lease

_EXIT_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class _Record:
    """What it takes to delete a model whose handle is gone."""

    lease: Lease
    model: str

    def delete(self, *, keep_local: bool) -> None:
        """Delete the model once; what the server does not delete expires there."""
        try:
            _records.remove(self)
        except KeyError:  # deleted before, or a parent's
            return
        try:
            with suppress(KshotError):
                self.lease.client.delete(self.model)
        finally:
            self.lease.end(keep_local=keep_local)


_records: set[_Record] = set()
_left: SimpleQueue[_Record | None] = SimpleQueue()  # which a finalizer may use at any time


class OwnModel:
    """An adapted model that is deleted when it is discarded, or nobody holds its handle any more.

    At the latest it is deleted at the end of the process that made it, not of a forked one.
    """

    def __init__(
        self, address: str | None, timeout: float, adapt: Callable[[Client], AdaptedModel]
    ) -> None:
        """Adapt with a client for an address, None for a local server; raise `KshotError`."""
        lease = Lease(address, timeout)
        try:
            self.handle = adapt(lease.client)
        except BaseException:
            lease.end(keep_local=True)
            raise
        self._process = os.getpid()
        self._record = _Record(lease, self.handle.id)
        _records.add(self._record)
        # In a thread: a finalizer interrupts whatever runs, and must not wait for a server.
        weakref.finalize(self.handle, _left.put, self._record).atexit = False
        _start_deleting()

    @property
    def usable(self) -> bool:
        """Tell whether this process can ask the model: a local server may have ended."""
        return os.getpid() == self._process and self._record.lease.client.usable

    def discard(self) -> None:
        """Delete the model now, and end a local server that nobody else uses."""
        self._record.delete(keep_local=False)


@cache
def _start_deleting() -> None:
    """Delete models in a thread from now on, and those that are left at the end."""
    thread = threading.Thread(target=_delete_left, name="kshot-delete", daemon=True)
    thread.start()
    atexit.register(_delete_all, thread)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_all)


def _delete_left() -> None:
    while (record := _left.get()) is not None:
        record.delete(keep_local=True)
        del record  # which holds a client


def _delete_all(thread: threading.Thread) -> None:
    """Delete what is left, as far as there is time; a local server ends with its models."""
    for record in list(_records):
        if not record.lease.local:
            _left.put(record)
    _left.put(None)
    thread.join(_EXIT_SECONDS)


def _forget_all() -> None:
    """Leave the models to the parent, and start anew when this process makes one."""
    global _left
    _left = SimpleQueue()
    _records.clear()
    atexit.unregister(_delete_all)
    _start_deleting.cache_clear()
