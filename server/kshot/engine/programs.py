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
from dataclasses import dataclass, field
from pathlib import Path

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
# About 2 MB each; those used last are kept.
MOST_LOADED = 32
NICENESS = 10  # adaptations go first


@dataclass
class _Asked:
    """A step that was asked for: for which model, and whether it is compiled or has failed."""

    model: str
    done: threading.Event = field(default_factory=threading.Event)
    seconds: float = 0.0


class Programs:
    """Compiled steps by their specs; another process compiles them one after another, on demand.

    Compiling takes seconds in which a process answers slowly, and it may fail in any way. Until a
    step is compiled, the plain one runs. The process that compiles a step compares it with the
    plain one; the thread that asks for it loads it in milliseconds. Engines that share a cache take
    turns: what one has compiled, the others load.
    """

    def __init__(self, cache: StepCache | None, device: torch.device) -> None:
        """Compile into a cache; without one nothing is compiled."""
        self._cache = cache
        self._device = device
        self._lock = threading.Lock()
        self._can_compile = compiler_name(device) is not None
        self._loaded: OrderedDict[StepSpec, InnerStep] = OrderedDict()
        self._refused: set[StepSpec] = set()
        self._asked: dict[StepSpec, _Asked] = {}
        # Steps of fewer tasks first, for those of more need them; then in the order of requests.
        self._wanted: queue.PriorityQueue[tuple[int, int, StepSpec]] = queue.PriorityQueue()
        self._count = itertools.count()
        if cache is not None and self._can_compile:
            threading.Thread(target=self._compile_all, name="compiling", daemon=True).start()

    def get(self, spec: StepSpec, model: str = "") -> InnerStep | None:
        """Return a compiled step of a model; if there is none, request it and return None."""
        with self._lock:
            if spec in self._loaded:
                self._loaded.move_to_end(spec)
                return self._loaded[spec]
            before = self._asked.get(spec)
            compiling = before is not None and not before.done.is_set()
            if self._cache is None or spec in self._refused or compiling:
                return None
            asked = self._asked.setdefault(spec, _Asked(model))
        step = self._load(self._cache, spec)
        if step is None and before is None and self._can_compile and spec not in self._refused:
            self._wanted.put((spec.task_count, next(self._count), spec))
        else:
            asked.done.set()
        return step

    def loaded(self, spec: StepSpec) -> bool:
        """Tell whether a compiled step is in use."""
        with self._lock:
            return spec in self._loaded

    def compiling_count(self) -> int:
        """Count the steps that are being compiled, or wait for that."""
        with self._lock:
            return sum(not asked.done.is_set() for asked in self._asked.values())

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
                asked = self._asked[spec]
            if seconds := asked.seconds:
                asked.seconds = 0.0
                self._log("compiled", spec, seconds=round(seconds, 1))
        return step

    def refuse(self, spec: StepSpec) -> None:
        """Never return this compiled step again: it failed, or cannot be used here."""
        with self._lock:
            self._refused.add(spec)
            self._loaded.pop(spec, None)

    def wait(self, spec: StepSpec) -> None:
        """Wait until a step is compiled or has failed, if it was asked for."""
        with self._lock:
            asked = self._asked.get(spec)
        if asked is not None:
            asked.done.wait()

    def close(self) -> None:
        """Release the compiled code: torch then removes the files that it unpacked to load it."""
        with self._lock:
            self._loaded.clear()

    def _log(self, event: str, spec: StepSpec, **more: object) -> None:
        fields = {"model": self._asked[spec].model, "tasks": spec.task_count, **more}
        fields["left"] = self.compiling_count()
        _log.info(event, extra={"fields": fields | {"step": spec.document()}})

    def _compile_all(self) -> None:
        while True:
            _, _, spec = self._wanted.get()
            step = {"step": spec.document()}
            try:
                self._compile_in_turn(spec)
            except CompilationError as error:
                _log.warning("compile_failed", extra={"fields": {"reason": str(error)} | step})
            except Exception:
                _log.exception("compile_failed", extra={"fields": step})
            finally:
                self._asked[spec].done.set()

    def _compile_in_turn(self, spec: StepSpec) -> None:
        """Compile when no other engine does, unless it has compiled this step meanwhile.

        Raises `CompilationError`. A compiling process that waited would hold its memory meanwhile.
        """
        assert self._cache is not None  # noqa: S101 -- no thread runs without a cache
        path = self._cache.path(spec, self._device)
        made = _made(path)
        with self._cache.turn():
            began = time.monotonic()
            if _made(path) == made:  # no file, or a damaged one
                self._log("compiling", spec)
                self._compile(self._cache, spec)
            self._asked[spec].seconds = time.monotonic() - began
        if not path.exists():
            raise CompilationError(f"{path}: the compiled step is missing")

    def _compile(self, cache: StepCache, spec: StepSpec) -> None:
        """Compile in a process that ends with ours: its standard input closes.

        Raises `CompilationError`.
        """
        command = [sys.executable, "-P", "-m", "kshot.engine.compiling"]
        command += [str(cache.folder), self._device.type, spec.text, str(NICENESS)]
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
                raise CompilationError(
                    f"compiling took longer than {COMPILE_SECONDS:g} s"
                ) from None
            if process.returncode != 0:
                lines = process.stdout.read().strip().splitlines()
                raise CompilationError(
                    lines[0] if lines else "the compiler ended without a message"
                )


def _made(path: Path) -> int | None:
    """Return when a file was made, None if it is missing."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
