"""The compiled inner steps of the engine: those that are there, and those in the making."""

import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence

import torch

from kshot.learner import CompilationError, InnerStep, StepCache, StepSpec

_log = logging.getLogger(__name__)

COMPILE_SECONDS = 600.0
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
        self._loaded: dict[StepSpec, InnerStep] = {}
        self._asked: dict[StepSpec, threading.Event] = {}
        self._wanted: queue.Queue[tuple[StepSpec, int]] = queue.Queue()
        if cache is not None:
            threading.Thread(target=self._compile_all, name="compiling", daemon=True).start()

    def get(self, spec: StepSpec, niceness: int = BACKGROUND) -> InnerStep | None:
        """Return a compiled step; where there is none yet, have it made and return None.

        The greater the niceness, the more the making leaves to other processes.
        """
        with self._lock:
            if spec in self._loaded or self._cache is None:
                return self._loaded.get(spec)
            if spec in self._asked:
                return None
            self._asked[spec] = threading.Event()
        if self.load(spec):
            self._asked[spec].set()
            return self._loaded[spec]
        self._wanted.put((spec, niceness))
        return None

    def load(self, spec: StepSpec) -> bool:
        """Load a step that was compiled before; tell whether there was one."""
        if self._cache is None:
            return False
        try:
            step = self._cache.load(spec, self._device)
        except CompilationError as error:
            _log.warning("compiled_step_damaged", extra={"fields": {"reason": str(error)}})
            return False
        if step is not None:
            with self._lock:
                self._loaded[spec] = step
        return step is not None

    def wait(self, specs: Sequence[StepSpec]) -> None:
        """Have steps compiled and wait until each is there or has failed."""
        for spec in specs:
            self.get(spec, FOREGROUND)
        for spec in specs:
            if spec in self._asked:
                self._asked[spec].wait()

    def close(self) -> None:
        """Let go of the compiled code: what was unpacked to load it is removed."""
        with self._lock:
            self._loaded.clear()

    def _compile_all(self) -> None:
        while True:
            spec, niceness = self._wanted.get()
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
            text=True,
        ) as process:
            assert process.stdout is not None  # noqa: S101 -- a pipe
            try:
                said = process.stdout.read() if process.wait(COMPILE_SECONDS) is not None else ""
            except subprocess.TimeoutExpired:
                process.kill()
                said = f"took longer than {COMPILE_SECONDS:g} s"
        if not self.load(spec):
            lines = said.strip().splitlines()
            fields = {"reason": lines[0] if lines else "the compiler ended without a word"}
            _log.warning("compile_failed", extra={"fields": fields | {"step": spec.document()}})
