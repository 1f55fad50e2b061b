"""The cache of compiled steps: files that are compiled once and load in milliseconds."""

import hashlib
import os
import platform
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch

from kshot.bundle import replace_file
from kshot.learner.compile.compilable import LARGEST_DIFFERENCE, Compilable, Program, difference
from kshot.learner.compile.packages import check_archive, check_libraries
from kshot.learner.native.library import load_native_package, write_native_package
from kshot.learner.native.native_step import FiltersLast, NativeStep, native_shape
from kshot.learner.networks.plugins import plugin_digest
from kshot.learner.steps.cuda_graphs import graphed
from kshot.learner.steps.inner_step import InnerStep
from kshot.learner.steps.ordered_step import OrderedStep
from kshot.learner.steps.step_spec import StepSpec
from kshot.learner.torch_internals import load_package, write_package

CACHE_VARIABLE = "KSHOT_CACHE"
_PRIVATE = 0o700
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class CompilationError(Exception):
    """A program cannot be compiled, or its compiled form cannot be used: says why."""


class RefusedStepError(CompilationError):
    """An intact compiled program is not used: it cannot be loaded here, or computes otherwise.

    Compiling it again would not help.
    """


def compiler_name(device: torch.device) -> str | None:
    """Name the compiler that inner steps need on a device, or None where none is found.

    Whether it works is not tried.
    """
    if device.type == "cuda" and find_spec("triton") is None:
        return None
    candidates = [os.environ.get("CXX"), "g++", "clang++"]
    return next((name for name in candidates if name and shutil.which(name)), None)


def default_cache_folder() -> Path:
    """Return where compiled steps are kept: KSHOT_CACHE, else kshot in the user's cache folder."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kshot"


@dataclass(frozen=True)
class StepCache:
    """A private folder of compiled programs, one file for each spec, device and version.

    The files are code that runs in whoever loads them: the folder is refused where others may
    write to it.
    """

    folder: Path

    @staticmethod
    def open(folder: Path) -> "StepCache":
        """Make the folder if it is missing; raise `CompilationError` if others may write to it."""
        try:
            folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as error:
            raise CompilationError(f"{folder}: {error.strerror}") from None
        if status.st_uid != os.getuid() or status.st_mode & _OTHERS_MAY_WRITE:
            raise CompilationError(
                f"{folder}: expected a folder of user {os.getuid()} with mode 700, for its files "
                f"are run; got user {status.st_uid} and mode {stat.S_IMODE(status.st_mode):o}"
            )
        return StepCache(folder)

    def path(self, spec: Compilable[Program], device: torch.device) -> Path:
        """Return where a program is, or will be, in its compiled form."""
        versions = (
            torch.__version__,
            platform.python_version(),
            _device_name(device),
            _processor(),
            str(torch.get_num_threads()),
            _source_digest(),
            plugin_digest(spec.network.name),
        )
        key = hashlib.sha256("\n".join((spec.text, *versions)).encode()).hexdigest()
        return self.folder / f"step-{key[:32]}.pt2"

    def load(self, spec: Compilable[Program], device: torch.device) -> Program | None:
        """Load a compiled program; None if there is none.

        The first to load a file compares it with its plain form and notes the file's digest beside
        it, so that later loads take milliseconds. Raises `CompilationError` when the file is
        damaged, `RefusedStepError` when it is intact but cannot be loaded here or does not compute
        what the plain form computes, and torch's own errors when a device has no memory left.
        """
        path = self.path(spec, device)
        if not path.exists():
            return None
        try:
            check_archive(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except Exception as error:  # of whatever kind archives raise
            raise CompilationError(f"{path}: {_first_line(error)}") from error
        try:
            program = _loaded(path, spec, device)
            compared = path.with_suffix(".compared")
            if not (compared.exists() and compared.read_text() == digest):
                self._compare(program, spec, device, path)
                with suppress(OSError):  # in a read-only folder each process compares
                    replace_file(compared, digest.encode())
        except (RefusedStepError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # of whatever kind loaders raise
            raise RefusedStepError(
                f"{path}: the compiled step cannot be loaded here: {_first_line(error)}; delete "
                "the file to compile it again, or name a temporary folder in TMPDIR whose files "
                "may be executed"
            ) from error
        return program

    def _compare(
        self, program: Program, spec: Compilable[Program], device: torch.device, path: Path
    ) -> None:
        """Raise `RefusedStepError` if a program does not compute what its plain form computes."""
        distance = difference(program, spec, device)
        if not distance <= LARGEST_DIFFERENCE:
            raise RefusedStepError(
                f"{path}: expected the plain step's results to {LARGEST_DIFFERENCE:.0%}, got a "
                f"difference of {distance:.2g}; delete the file to compile it again"
            )

    def compile(self, spec: Compilable[Program], device: torch.device) -> Program:
        """Load a program, compiled now if it is not there yet: that takes ten seconds and more.

        Processes that want the same one at once wait for one of them; a damaged file is made
        again. Raises `CompilationError`.
        """
        if (loaded := self._load_undamaged(spec, device)) is not None:
            return loaded
        if compiler_name(device) is None:
            raise CompilationError("no C++ compiler was found; install g++ or clang++")
        path = self.path(spec, device)
        with self._locked(path):
            loaded = self._load_undamaged(spec, device)
            if loaded is None:
                self._write(spec, device, path)
                loaded = self.load(spec, device)
        if loaded is None:
            raise CompilationError(
                f"{path} is gone after it was compiled; check what else empties the folder"
            )
        return loaded

    def _load_undamaged(self, spec: Compilable[Program], device: torch.device) -> Program | None:
        try:
            return self.load(spec, device)
        except RefusedStepError:
            raise
        except CompilationError:
            return None

    def _write(self, spec: Compilable[Program], device: torch.device, path: Path) -> None:
        scratch = path.with_suffix(".scratch")
        try:
            shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
            scratch.mkdir(mode=_PRIVATE)
            package = scratch / "step.pt2"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's compiler uses what torch deprecates
                _write_program(package, spec, device)
            check_libraries(package)
            package.replace(path)
        except Exception as error:  # of whatever kind compilers raise
            raise CompilationError(
                f"the inner step cannot be compiled: {_first_line(error)}"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other process is in such a block: they compile one after another."""
        with self._locked(self.folder / "compiling"):
            yield

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        try:
            lock = path.with_suffix(".lock").open("w")
        except OSError as error:
            raise CompilationError(f"{error.filename}: {error.strerror}") from None
        with lock:
            flock(lock, LOCK_EX)
            yield


def compile_program(spec: Compilable[Program], device: torch.device) -> Program:
    """Compile a program with the user's cache; raises `CompilationError`."""
    return StepCache.open(default_cache_folder()).compile(spec, device)


def compile_step(spec: StepSpec, device: torch.device) -> InnerStep:
    """Compile a step with the user's cache; on a GPU it launches as one graph.

    Raises `CompilationError`.
    """
    return graphed(compile_program(spec, device), device)


def _write_program(package: Path, spec: Compilable[Program], device: torch.device) -> None:
    """Compile a program; raise whatever its compiler raises."""
    if native_shape(spec, device) is not None:
        write_native_package(compiler_name(device) or "", package)
    else:
        write_package(spec.build(tuned_for=device), spec.example_arguments(device), package)


def _loaded(package: Path, spec: Compilable[Program], device: torch.device) -> Program:
    """Load what `_write_program` wrote; raise whatever its loader raises."""
    shape = native_shape(spec, device)
    if shape is None:
        return cast(Program, load_package(package))
    step = NativeStep(load_native_package(package), shape)
    return cast(Program, OrderedStep(step, FiltersLast(step)))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} CUDA {torch.version.cuda}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    """Name the processor and its instructions: the compiler builds for exactly these."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )


@cache
def _source_digest() -> str:
    """Digest this package: a step compiled from other code is another step.

    Once in a process: the files may change, the code that runs does not.
    """
    digest = hashlib.sha256()
    learner = Path(__file__).parents[1]
    sources = (path for path in learner.rglob("*") if path.suffix in {".py", ".cpp", ".h"})
    for path in sorted(sources):
        digest.update(str(path.relative_to(learner)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
