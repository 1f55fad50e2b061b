"""The streams of a command: writing never raises, and what did not go out is known."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

STDOUT, STDERR = 1, 2
# A result that is printed at once is kept whole until it has been written.
_BUFFER_BYTES = 2**20
# Of a result that its reader did not want to the end, this much is said: an id comes first.
_BEGINNING_BYTES = 1000
_MOST_MISSED_BYTES = 2**24
_JOINERS = "\u200c\u200d"  # parts of words in some scripts


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey: others chose its names."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" or each in _JOINERS else repr(each)[1:-1]
        for each in text
    )


class Outlet(io.RawIOBase):
    """A descriptor that takes everything; `missed` is what was written and has not gone out."""

    def __init__(self, descriptor: int, problem: OSError | None, most_missed: int) -> None:
        """Write to a descriptor, unless there is a problem already; keep so many bytes at most."""
        super().__init__()
        self.missed = bytearray()
        self._most_missed = most_missed
        self._descriptor = descriptor
        self._problem: BaseException | None = problem
        self._taken = False

    def write(self, content: object) -> int:
        """Write all bytes of a buffer; return their number, whatever became of them."""
        whole = bytes(content)  # type: ignore[call-overload] # a buffer, which has no public type
        left = memoryview(whole)
        if self._problem is None:
            try:
                while left:
                    left = left[self._write(left) :]
                self._taken = True
                return len(whole)
            except OSError as error:
                self._problem = error
            except KeyboardInterrupt as error:  # the reader does not read
                self._problem = error
                raise
            self._taken |= len(left) < len(whole)
        self.missed += whole[: max(0, self._most_missed - len(self.missed))]
        return len(whole)

    @property
    def unread(self) -> bool:
        """Tell whether the reader has gone."""
        return isinstance(self._problem, BrokenPipeError)

    def rest(self) -> str:
        """Return what did not go out; its beginning alone if the reader had enough."""
        rest = self.missed[:_BEGINNING_BYTES] if self.unread and self._taken else self.missed
        return rest.decode(errors="replace")

    def why(self) -> str:
        """Say why it did not go out."""
        if self.unread:
            return "its reader has gone"
        if isinstance(self._problem, OSError):
            return "closed" if self._problem.errno == errno.EBADF else str(self._problem.strerror)
        return "its reader did not read"

    def _write(self, content: memoryview) -> int:
        while True:
            try:
                return os.write(self._descriptor, content)
            except BlockingIOError:
                select.select([], [self._descriptor], [])

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Say that this can be written to."""
        return True


@contextmanager
def safe_streams() -> Iterator[Outlet]:
    """Let the block write to `sys.stdout` and `sys.stderr` without errors; yield stdout's outlet.

    Characters that the terminal lacks are escaped. A closed descriptor is opened on the null
    device first: a file or connection of the program would have its number otherwise. Streams that
    somebody has replaced are left alone.
    """
    closed = _open_closed()
    saved = sys.stdout, sys.stderr
    # Nobody is left to hear what stderr missed, and a server logs for ever.
    err = Outlet(STDERR, _problem(STDERR, closed, sys.__stderr__), 0)
    out = Outlet(STDOUT, _problem(STDOUT, closed, sys.__stdout__), _MOST_MISSED_BYTES)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(out, sys.__stdout__, line_buffering=out.isatty())
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(err, sys.__stderr__, line_buffering=True)
    try:
        yield out
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = saved


def stdout_lost() -> bool:
    """Tell whether within `safe_streams` some of what was printed did not go out."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, Outlet) and bool(raw.missed)


def _open_closed() -> set[int]:
    """Open the standard descriptors that are closed, and return their numbers."""
    closed = set()
    for number in range(STDERR + 1):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(opened, True)
    return closed


def _problem(number: int, closed: set[int], stream: TextIO | None) -> OSError | None:
    """Return the problem of a descriptor that was closed when Python started."""
    if number in closed or stream is None:
        return OSError(errno.EBADF, os.strerror(errno.EBADF))
    return None


def _text(outlet: Outlet, like: TextIO | None, *, line_buffering: bool) -> TextIO:
    encoding = "utf-8" if like is None else like.encoding
    # In the C locale a name that is not UTF-8 leaves as it came.
    escaped = like is not None and like.errors == "surrogateescape" and encoding == "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(outlet, _BUFFER_BYTES),
        encoding=encoding,
        errors="surrogateescape" if escaped else "backslashreplace",
        line_buffering=line_buffering,
        write_through=True,  # click writes to the buffer below where the encoding is ASCII
    )
