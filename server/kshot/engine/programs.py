"""The compiled inner steps of the engine: those that are there, and those in the making."""

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

from kshot.learner import CompilationError, InnerStep, StepCache, StepSpec, compiler_name

_log = logging.getLogger(__name__)

COMPILE_SECONDS = 600.0
# An engine that waited for longer would be given up by its front.
WAIT_SECONDS = 120.0
# About 2 MB each; those used last are kept.
MOST_LOADED = 32
FOREGROUND = 0
BACKGROUND = 10  # adaptations go first


class Programs:
    """Compiled steps by their specs; a helper process makes one after another, as asked for.

    Compiling takes seconds in which a process answers slowly, and it may fail in any way: so it
    happens elsewhere, and steps run uncompiled until then. Any thread may use it.
    """

    def __init__(self, cache: StepCache | None, device: torch.device) -> None:
        """Compile into a cache; without one nothing is compiled."""
        self._cache = cache
        self._device = device
        self._lock = threading.Lock()
        self._can_compile = compiler_name(device) is not None
        self._loaded: OrderedDict[StepSpec, InnerStep] = OrderedDict()
        self._broken: set[StepSpec] = set()
        self._asked: dict[StepSpec, threading.Event] = {}
        # By niceness, then in the order asked: who waits for a start goes first.
        self._wanted: queue.PriorityQueue[tuple[int, int, StepSpec]] = queue.PriorityQueue()
        self._count = itertools.count()
        if cache is not None and self._can_compile:
            threading.Thread(target=self._compile_all, name="compiling", daemon=True).start()

    def get(self, spec: StepSpec, niceness: int = BACKGROUND) -> InnerStep | None:
        """Return a compiled step; where there is none yet, have it made and return None.

        The greater the niceness, the more the making leaves to other processes.
        """
        with self._lock:
            if spec in self._loaded:
                self._loaded.move_to_end(spec)
                return self._loaded[spec]
            if self._cache is None or (spec in self._asked and not self._asked[spec].is_set()):
                return None
            asked_before = spec in self._asked
            event = self._asked.setdefault(spec, threading.Event())
        if asked_before:  # it failed, or had to go for others
            return self._load(spec)
        if (step := self._load(spec)) is not None or not self._can_compile:
            event.set()
            return step
        self._wanted.put((niceness, next(self._count), spec))
        return None

    def _load(self, spec: StepSpec) -> InnerStep | None:
        """Load a step that was compiled before, None where there is none that can be loaded."""
        if self._cache is None or spec in self._broken:
            return None
        try:
            step = self._cache.load(spec, self._device)
        except CompilationError as error:
            _log.warning("compiled_step_not_loaded", extra={"fields": {"reason": str(error)}})
            return None
        if step is not None:
            with self._lock:
                self._loaded[spec] = step
                while len(self._loaded) > MOST_LOADED:
                    self._loaded.popitem(last=False)
        return step

    def forget(self, spec: StepSpec) -> None:
        """Give out no more a step that failed when it ran."""
        with self._lock:
            self._broken.add(spec)
            self._loaded.pop(spec, None)

    def wait(self, specs: Sequence[StepSpec]) -> None:
        """Have steps compiled and wait until each is there or has failed, or time is over."""
        until = time.monotonic() + WAIT_SECONDS
        for spec in specs:
            self.get(spec, FOREGROUND)
        for spec in specs:
            if spec in self._asked:
                self._asked[spec].wait(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Let go of the compiled code: what was unpacked to load it is removed."""
        with self._lock:
            self._loaded.clear()

    def _compile_all(self) -> None:
        while True:
            niceness, _, spec = self._wanted.get()
            try:
                self._compile(spec, niceness)
            except Exception:
                _log.exception("compile_failed", extra={"fields": {"step": spec.document()}})
            finally:
                self._asked[spec].set()

    def _compile(self, spec: StepSpec, niceness: int) -> None:
        """Compile in a process that ends with ours: its standard input closes."""
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
                said = process.stdout.read() if process.wait(COMPILE_SECONDS) is not None else ""
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said = f"took longer than {COMPILE_SECONDS:g} s"
        if self._load(spec) is None:
            lines = said.strip().splitlines()
            fields = {"reason": lines[0] if lines else "the compiler ended without a word"}
            _log.warning("compile_failed", extra={"fields": fields | {"step": spec.document()}})
