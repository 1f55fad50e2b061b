"""The compiled inner steps of the engine: those that are loaded, and those being compiled."""

import itertools
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import torch

from kshot.learner import (
    CompilationError,
    InnerStep,
    RefusedStepError,
    StepCache,
    StepSpec,
    compiler_name,
)

_log = logging.getLogger(__name__)

COMPILE_SECONDS = 600.0
# The front gives up an engine that takes longer to start.
WAIT_SECONDS = 120.0
# About 2 MB each; those used last are kept.
MOST_LOADED = 32
FOREGROUND = 0
BACKGROUND = 10  # adaptations go first


class Programs:
    """Compiled steps by their specs; another process compiles them one after another, on demand.

    Compiling takes seconds in which a process answers slowly, and it may fail in any way. Until a
    step is compiled, the plain one runs. The process that compiles a step compares it with the
    plain one; the thread that asks for it loads it in milliseconds.
    """

    def __init__(self, cache: StepCache | None, device: torch.device) -> None:
        """Compile into a cache; without one nothing is compiled."""
        self._cache = cache
        self._device = device
        self._lock = threading.Lock()
        self._can_compile = compiler_name(device) is not None
        self._loaded: OrderedDict[StepSpec, InnerStep] = OrderedDict()
        self._refused: set[StepSpec] = set()
        self._asked: dict[StepSpec, threading.Event] = {}
        # By niceness, then in the order of requests: a start that waits goes first.
        self._wanted: queue.PriorityQueue[tuple[int, int, StepSpec]] = queue.PriorityQueue()
        self._count = itertools.count()
        if cache is not None and self._can_compile:
            threading.Thread(target=self._compile_all, name="compiling", daemon=True).start()

    def get(self, spec: StepSpec, niceness: int = BACKGROUND) -> InnerStep | None:
        """Return a compiled step; if there is none, request it and return None.

        The greater the niceness, the more processor time compiling leaves to other processes.
        """
        with self._lock:
            if spec in self._loaded:
                self._loaded.move_to_end(spec)
                return self._loaded[spec]
            asked = self._asked.get(spec)
            compiling = asked is not None and not asked.is_set()
            if self._cache is None or spec in self._refused or compiling:
                return None
            event = self._asked.setdefault(spec, threading.Event())
        step = self._load(self._cache, spec)
        if step is None and asked is None and self._can_compile and spec not in self._refused:
            self._wanted.put((niceness, next(self._count), spec))
        else:
            event.set()
        return step

    def _load(self, cache: StepCache, spec: StepSpec) -> InnerStep | None:
        """Load a step that is compiled, None if there is none; log once if it is refused."""
        try:
            step = cache.load(spec, self._device)
        except RefusedStepError as error:
            _log.warning("compiled_step_refused", extra={"fields": {"reason": str(error)}})
            self.refuse(spec)
            return None
        except CompilationError as error:
            _log.warning("compiled_step_not_loaded", extra={"fields": {"reason": str(error)}})
            return None
        except torch.OutOfMemoryError as error:  # the next to ask tries again
            _log.warning("compiled_step_not_loaded", extra={"fields": {"reason": str(error)}})
            error.__traceback__ = None  # it holds the tensors
            torch.cuda.empty_cache()
            return None
        if step is not None:
            with self._lock:
                self._loaded[spec] = step
                while len(self._loaded) > MOST_LOADED:
                    self._loaded.popitem(last=False)
        return step

    def refuse(self, spec: StepSpec) -> None:
        """Never return this compiled step again: it failed, or cannot be used here."""
        with self._lock:
            self._refused.add(spec)
            self._loaded.pop(spec, None)

    def wait(self, specs: Sequence[StepSpec]) -> None:
        """Request steps and wait until each is compiled or has failed, or time is over."""
        until = time.monotonic() + WAIT_SECONDS
        for spec in specs:
            self.get(spec, FOREGROUND)
        for spec in specs:
            if spec in self._asked:
                self._asked[spec].wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Release the compiled code: torch then removes the files that it unpacked to load it."""
        with self._lock:
            self._loaded.clear()

    def _compile_all(self) -> None:
        while True:
            niceness, _, spec = self._wanted.get()
            step = {"step": spec.document()}
            try:
                if reason := self._compile(spec, niceness):
                    _log.warning("compile_failed", extra={"fields": {"reason": reason} | step})
            except Exception:
                _log.exception("compile_failed", extra={"fields": step})
            finally:
                self._asked[spec].set()

    def _compile(self, spec: StepSpec, niceness: int) -> str:
        """Compile in a process that ends with ours: its standard input closes.

        Return why that failed, "" if it did not.
        """
        assert self._cache is not None  # noqa: S101 -- no thread runs without a cache
        command = [sys.executable, "-P", "-m", "kshot.engine.compiling"]
        command += [str(self._cache.folder), self._device.type, spec.text, str(niceness)]
        with subprocess.Popen(  # noqa: S603 -- our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that the compiler's own processes end with it
            text=True,
        ) as process:
            assert process.stdout is not None  # noqa: S101 -- a pipe
            try:
                process.wait(COMPILE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"compiling took longer than {COMPILE_SECONDS:g} s"
            if process.returncode == 0:
                path = self._cache.path(spec, self._device)
                return "" if path.exists() else f"{path}: the compiled step is missing"
            lines = process.stdout.read().strip().splitlines()
            return lines[0] if lines else "the compiler ended without a message"
