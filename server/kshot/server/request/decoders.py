"""Processes that decode large images; each can be killed, and callers take turns at them."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from kshot.bundle import ImageError, Levels
from kshot.bundle.turns import Turns
from kshot.server.call_context import current_call
from kshot.server.event_log import LOGGER
from kshot.server.fair_pool import aside
from kshot.server.request.fitted_file import FileJob, FittedFile, fit_file

# Files that may take longer, by their `Survey.seconds`, are decoded in a process.
_LARGE_SECONDS = 0.1
# Of processor time; the largest images that a server takes need a few.
_CPU_SECONDS = 20.0
# Also for a process that waits for memory or for a processor.
_WALL_SECONDS = 120.0
_PATIENCE_SECONDS = 0.05
_MOST_PROCESSES = 4
# Its start takes half a second of processor: predictions come first on a busy machine.
_PROGRAM = """\
import os, sys
os.nice(5)
from kshot.server.request.decoder_process import main
main(float(sys.argv[1]))
"""
_MAX_ANSWER_BYTES = 2**30


class _BrokenError(Exception):
    """A process cannot be started, or ended by itself."""


class DecoderProcess:
    """One process, started when it is needed, and again after it was killed; for one thread."""

    def __init__(self, cpu_seconds: float = _CPU_SECONDS) -> None:
        self._cpu_seconds = cpu_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._ends: tuple[Connection, Connection] | None = None  # of jobs, of answers

    @property
    def pid(self) -> int | None:
        """Return the process id, None while there is no process."""
        return None if self._process is None else self._process.pid

    def fit(self, job: FileJob) -> FittedFile:
        """Decode a file; raises `ImageError`, and what `Call.check` does, which kills it."""
        content = pickle.dumps(job)
        try:
            jobs, answers = self._started()
            try:
                jobs.send_bytes(content)
                self._wait(answers)
                facts = json.loads(answers.recv_bytes(_MAX_ANSWER_BYTES))
                pixels = answers.recv_bytes(_MAX_ANSWER_BYTES)
            except (EOFError, OSError) as error:
                raise self._end() from error
        except _BrokenError:
            LOGGER.exception("failure")
            self.kill()
            return fit_file(job, Levels())  # its bounds hold here as well
        except BaseException:
            self.kill()
            raise
        if "reason" in facts:
            raise ImageError.about(facts["reason"])
        return _read(facts, pixels)

    def kill(self) -> None:
        """End the process at once."""
        process, self._process, ends, self._ends = self._process, None, self._ends, None
        if process is not None:
            process.kill()
            process.wait()
        for end in ends or ():
            end.close()

    def _started(self) -> tuple[Connection, Connection]:
        if self._process is not None and self._ends and self._process.poll() is None:
            return self._ends
        self.kill()
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- our own program
                [sys.executable, "-P", "-c", _PROGRAM, str(self._cpu_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                # Ctrl-C in a terminal is for the front.
                start_new_session=True,
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
            )
        except OSError as error:
            raise _BrokenError("no process for images can be started") from error
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101 -- both are pipes
        with stdin, stdout:
            jobs = Connection(os.dup(stdin.fileno()), readable=False)
            self._ends = jobs, Connection(os.dup(stdout.fileno()), writable=False)
        return self._ends

    def _wait(self, answers: Connection) -> None:
        latest = time.monotonic() + _WALL_SECONDS
        while not answers.poll(_PATIENCE_SECONDS):
            current_call().check()
            if time.monotonic() > latest:
                raise self._too_long()

    def _end(self) -> Exception:
        """Return the error for a process that has ended."""
        process = self._process
        code = process.wait() if process else 0
        if code == -signal.SIGPROF:
            return self._too_long()
        if code < 0:
            name = signal.Signals(-code).name
            return ImageError.about(
                f"cannot be decoded: its decoder was ended by {name}; send it smaller, or save it "
                "again"
            )
        return _BrokenError(f"a process for images ended with code {code}")

    def _too_long(self) -> ImageError:
        return ImageError.about(
            f"takes too long to decode; expected at most {self._cpu_seconds:g} seconds; send it "
            "smaller, or save it again"
        )


@dataclass(eq=False)
class _Waiter:
    caller: str
    ready: threading.Event = field(default_factory=threading.Event)
    process: DecoderProcess | None = None
    gone: bool = False


class Decoders:
    """Decodes files: small ones in the thread that asks, large ones in a few processes.

    Callers take turns, and none has all the processes. While a thread waits, it holds no place
    among the workers.
    """

    def __init__(self, count: int | None = None, large_seconds: float = _LARGE_SECONDS) -> None:
        count = count or max(2, min(_MOST_PROCESSES, (os.cpu_count() or 1) // 2))
        self._large_seconds = large_seconds
        self._most = max(1, count - 1)  # for one caller
        self._free = [DecoderProcess() for _ in range(count)]
        self._busy: list[DecoderProcess] = []
        self._running: Counter[str] = Counter()
        self._waiting: Turns[_Waiter] = Turns()
        self._lock = threading.Lock()

    def fit(self, job: FileJob, levels: Levels) -> FittedFile:
        """Do what `fit_file` does; also raises what `Call.check` does."""
        if job.survey.seconds <= self._large_seconds:
            return fit_file(job, levels)
        with aside(), self._turn() as process:
            found = process.fit(job)
        levels.join(found.levels)
        return found

    def close(self) -> None:
        """End all processes; for when no call waits any more."""
        with self._lock:
            processes = [*self._free, *self._busy]
        for process in processes:
            process.kill()

    @contextmanager
    def _turn(self) -> Iterator[DecoderProcess]:
        waiter = _Waiter(current_call().caller)
        with self._lock:
            self._waiting.add(waiter.caller, waiter)
            self._give()
        try:
            while not waiter.ready.wait(_PATIENCE_SECONDS):
                current_call().check()
            assert waiter.process is not None  # noqa: S101 -- given with `ready`
            yield waiter.process
        finally:
            with self._lock:
                waiter.gone = True
                if waiter.process is not None:
                    self._busy.remove(waiter.process)
                    self._free.append(waiter.process)
                    self._running[waiter.caller] -= 1
                    self._running += Counter()  # without those who have none
                self._give()

    def _give(self) -> None:
        """Give free processes to those whose turn it is."""
        while self._free:
            caller = self._waiting.next(lambda each: self._running[each] < self._most)
            if caller is None:
                return
            if self._waiting.first(caller).gone:
                self._waiting.drop(caller)
                continue
            waiter = self._waiting.take(caller)
            waiter.process = self._free.pop()  # the one used last has started
            self._busy.append(waiter.process)
            self._running[caller] += 1
            waiter.ready.set()


def _read(facts: dict[str, Any], pixels: bytes) -> FittedFile:
    """Read what `decoder_process.encode` wrote."""
    arrays, at = [], 0
    for shape in facts["shapes"]:
        size = math.prod(shape)
        arrays.append(np.frombuffer(pixels, np.uint8, size, at).reshape(shape))
        at += size
    thumbnail = arrays.pop() if facts["has_thumbnail"] else None
    return FittedFile(arrays, thumbnail, Levels(facts["greatest"], facts["differ"]))
