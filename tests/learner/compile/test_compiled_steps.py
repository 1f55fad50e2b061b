"""Compiled inner steps. The session's cache is kept: only changed sources are compiled again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest
import torch

from kshot.bundle import NetworkSpec, Scope
from kshot.learner import (
    CompilationError,
    InnerStep,
    RefusedStepError,
    StepCache,
    StepSpec,
    compile_step,
    compiler_name,
)
from kshot.learner.compile import step_cache

CPU = torch.device("cpu")
ArgumentsOf = Callable[[StepSpec, torch.dtype], list[torch.Tensor]]

pytestmark = pytest.mark.compiled
needs_compiler = pytest.mark.skipif(compiler_name(CPU) is None, reason="no C++ compiler found")


@pytest.fixture(scope="module")
def small(spec: StepSpec) -> StepSpec:
    """A step that compiles in a third of the time of a convolution's."""
    return replace(spec, network=NetworkSpec("mlp", {"hidden_units": 8, "hidden_layers": 1}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: StepSpec) -> Iterator[StepCache]:
    """A folder of its own with one step, compiled now; torch's own cache would be `elsewhere`."""
    folder = tmp_path_factory.mktemp("steps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "elsewhere"))
        cache = StepCache.open(folder / "cache")
        cache.compile(small, CPU)
        yield cache


def _assert_the_same_step(
    compiled: InnerStep, spec: StepSpec, arguments_of: ArgumentsOf, tolerance_after_50: float
) -> None:
    """In float32: one step to 1e-5, for sums run in another order; 50 to the tolerance given."""
    plain = spec.build()
    got, expected = (arguments_of(spec, torch.float32) for _ in range(2))
    start = [argument.clone() for argument in got]
    for step in range(50):
        tolerance = 1e-5 if step == 0 else tolerance_after_50

        losses = compiled(*got)

        torch.testing.assert_close(losses, plain(*expected), rtol=0, atol=tolerance)
        for tensor, reference in zip(got, expected, strict=True):
            torch.testing.assert_close(tensor, reference, rtol=0, atol=tolerance)
    assert (got[0] - start[0]).abs().max() > 1e-2
    assert got[1].equal(start[1]) != spec.updates_second_moment
    for tensor, unchanged in zip(got[2:], start[2:], strict=True):
        assert tensor.equal(unchanged)


@needs_compiler
@pytest.mark.parametrize(
    ("updates_second_moment", "scope"), [(False, Scope.ALL), (True, Scope.HEAD)]
)
def test_a_compiled_step_of_many_tasks_is_the_plain_one(
    spec: StepSpec,
    small: StepSpec,
    arguments_of: ArgumentsOf,
    updates_second_moment: bool,
    scope: Scope,
) -> None:
    """The first task has a padded way. A head's gradient stops before any convolution."""
    choices = {"updates_second_moment": updates_second_moment, "scope": scope}
    body = spec if scope is Scope.ALL else small
    spec = replace(body, **choices, task_count=3)  # type: ignore[arg-type]  # of one type each

    _assert_the_same_step(compile_step(spec, CPU), spec, arguments_of, 1e-3)


@needs_compiler
def test_a_compiled_step_is_the_plain_one(
    made: StepCache, small: StepSpec, arguments_of: ArgumentsOf
) -> None:
    step = made.load(small, CPU)

    assert step is not None
    _assert_the_same_step(step, small, arguments_of, 1e-3)


@needs_compiler
def test_a_compiled_step_of_full_size_is_the_plain_one(
    builtin_step: StepSpec, arguments_of: ArgumentsOf
) -> None:
    _assert_the_same_step(compile_step(builtin_step, CPU), builtin_step, arguments_of, 1e-3)


@needs_compiler
def test_a_compiled_step_gives_the_same_bytes_in_every_row(
    builtin_step: StepSpec, arguments_of: ArgumentsOf
) -> None:
    """A row of slots lies anywhere: matrix products must not depend on its alignment."""
    step = compile_step(builtin_step, CPU)
    parameters, scale, *rest = arguments_of(builtin_step, torch.float32)
    rows = parameters.repeat(7, 1), scale.repeat(7, 1)

    for row in range(7):
        part = slice(row, row + 1)
        for _ in range(3):
            step(rows[0][part], rows[1][part], *rest)

    assert not rows[0][0].equal(parameters[0])
    for row in range(1, 7):
        assert rows[0][row].equal(rows[0][0])
        assert rows[1][row].equal(rows[1][0])


@needs_compiler
def test_compiling_leaves_the_step_its_lock_and_its_digest(
    made: StepCache, small: StepSpec
) -> None:
    step = made.path(small, CPU)

    beside = {step.with_suffix(suffix) for suffix in (".lock", ".compared")}
    assert set(made.folder.iterdir()) == {step, *beside}
    assert step.name.startswith("step-")
    elsewhere = made.folder.parent / "elsewhere"
    assert not elsewhere.exists() or not list(elsewhere.iterdir())


@needs_compiler
def test_a_step_that_is_there_is_loaded_without_a_compiler(
    made: StepCache, small: StepSpec, arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("PATH", "")
    before = made.path(small, CPU).stat()

    step = made.compile(small, CPU)

    after = made.path(small, CPU).stat()
    assert compiler_name(CPU) is None
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert step(*arguments_of(small, torch.float32)).isfinite().all()


def _flip(path: Path, part: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(part * len(content))] ^= 0xFF
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no archive": lambda path: path.write_bytes(b"#!/bin/sh\n"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one byte of code": lambda path: _flip(path, 0.5),
}


@pytest.fixture
def copied(made: StepCache, small: StepSpec, tmp_path: Path) -> StepCache:
    """The same step in another folder, where nothing is compiled: its file is copied."""
    cache = StepCache.open(tmp_path / "copied")
    shutil.copy(made.path(small, CPU), cache.path(small, CPU))
    return cache


@needs_compiler
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_step_is_not_loaded(copied: StepCache, small: StepSpec, damage: str) -> None:
    path = copied.path(small, CPU)
    DAMAGES[damage](path)

    with pytest.raises(CompilationError) as caught:
        copied.load(small, CPU)

    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@needs_compiler
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_step_is_made_again(
    made: StepCache,
    copied: StepCache,
    small: StepSpec,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = made.path(small, CPU).read_bytes()
    DAMAGES[damage](copied.path(small, CPU))
    monkeypatch.setattr(
        step_cache, "write_package", lambda _step, _like, package: package.write_bytes(whole)
    )

    copied.compile(small, CPU)

    assert copied.path(small, CPU).read_bytes() == whole


@needs_compiler
def test_without_a_compiler_a_damaged_step_stays_an_error(
    copied: StepCache, small: StepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.path(small, CPU).write_bytes(b"")
    monkeypatch.setattr(step_cache, "compiler_name", lambda _device: None)

    with pytest.raises(CompilationError, match="no C\\+\\+ compiler was found"):
        copied.compile(small, CPU)


def _compile_nothing(_step: InnerStep, _like: tuple[torch.Tensor, ...], _package: Path) -> None:
    raise AssertionError("compiled again")


@needs_compiler
def test_an_intact_step_of_another_formula_is_refused(
    made: StepCache, small: StepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its archive is whole and its shapes fit: only a comparison with the plain step tells."""
    cache, other = StepCache.open(tmp_path / "cache"), replace(small, second_moment_decay=0.9)
    path = shutil.copy(made.path(small, CPU), cache.path(other, CPU))
    monkeypatch.setattr(step_cache, "write_package", _compile_nothing)

    for load in (cache.load, cache.compile):
        with pytest.raises(RefusedStepError, match="expected the plain step's results") as caught:
            load(other, CPU)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).endswith("delete the file to compile it again")


@needs_compiler
def test_an_intact_step_that_cannot_be_loaded_is_not_compiled_again(
    copied: StepCache, small: StepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a temporary folder that forbids to execute: each start would compile for nothing."""

    def fail(_package: Path) -> None:
        raise RuntimeError("failed to map segment from shared object\nand a trace")

    monkeypatch.setattr(step_cache, "load_package", fail)
    monkeypatch.setattr(step_cache, "write_package", _compile_nothing)

    with pytest.raises(RefusedStepError) as caught:
        copied.compile(small, CPU)

    assert str(caught.value).startswith(
        f"{copied.path(small, CPU)}: the compiled step cannot be loaded here: "
        "failed to map segment from shared object; delete the file"
    )
    assert copied.path(small, CPU).exists()


@needs_compiler
def test_a_step_is_compared_once(
    copied: StepCache, small: StepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison takes seconds for a large network, in a thread that others wait for."""
    compared: list[StepSpec] = []

    def count(_program: InnerStep, compiled: StepSpec, _device: torch.device) -> float:
        compared.append(compiled)
        return 0.0

    monkeypatch.setattr(step_cache, "difference", count)
    copied.path(small, CPU).with_suffix(".compared").write_text("another file's digest")

    for _ in range(2):
        assert copied.load(small, CPU) is not None

    assert compared == [small]


@needs_compiler
def test_a_read_only_cache_serves_its_steps(
    copied: StepCache, small: StepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose image brings the compiled steps."""

    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(step_cache, "replace_file", fail)
    copied.path(small, CPU).with_suffix(".compared").unlink(missing_ok=True)

    assert copied.load(small, CPU) is not None


@needs_compiler
def test_without_memory_to_compare_a_step_is_not_refused(
    copied: StepCache, small: StepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> float:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(step_cache, "difference", fail)
        copied.path(small, CPU).with_suffix(".compared").unlink(missing_ok=True)
        with pytest.raises(torch.OutOfMemoryError):
            copied.load(small, CPU)

    assert copied.load(small, CPU) is not None


WANT_THE_STEP = """
import json, sys, torch
from pathlib import Path
from kshot.learner import StepCache, StepSpec
from kshot.learner.compile import step_cache

folder, whole, calls, document = sys.argv[1:]

def compile_by_copying(step, arguments, package):
    with open(calls, "a") as file:
        file.write("compiled\\n")
    package.write_bytes(Path(whole).read_bytes())

step_cache.write_package = compile_by_copying
torch.set_num_threads(1)
spec, cache = StepSpec.from_document(json.loads(document)), StepCache.open(Path(folder))
print("ready", flush=True)
step = cache.compile(spec, torch.device("cpu"))
print(step(*spec.example_arguments(torch.device("cpu"))).tolist())
"""


@needs_compiler
def test_processes_that_want_the_same_step_make_it_once(
    made: StepCache, small: StepSpec, tmp_path: Path
) -> None:
    """Both are on their way before either may begin: the test holds the lock until then."""
    cache, calls = StepCache.open(tmp_path / "cache"), tmp_path / "calls"
    path = cache.path(small, CPU)
    command = [sys.executable, "-c", WANT_THE_STEP, str(cache.folder)]
    command += [str(made.path(small, CPU)), str(calls), small.text]
    with path.with_suffix(".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        assert not path.exists()

    said = [process.communicate()[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    assert calls.read_text() == "compiled\n"
    losses = small.build()(*small.example_arguments(CPU)).tolist()
    assert said[0] == said[1]
    assert json.loads(said[0]) == pytest.approx(losses, abs=1e-5)
    beside = {path.with_suffix(suffix) for suffix in (".lock", ".compared")}
    assert set(cache.folder.iterdir()) == {path, *beside}


def test_a_failed_compilation_leaves_nothing_but_its_lock(
    small: StepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StepCache.open(tmp_path / "cache")

    def fail(_step: InnerStep, _like: tuple[torch.Tensor, ...], package: Path) -> None:
        (package.parent / "half.cpp").write_text("int main(")
        raise RuntimeError("C++ compile error\nmany\nlines")

    monkeypatch.setattr(step_cache, "write_package", fail)
    monkeypatch.setattr(step_cache, "compiler_name", lambda _device: "g++")

    with pytest.raises(CompilationError) as caught:
        cache.compile(small, CPU)

    assert str(caught.value) == "the inner step cannot be compiled: C++ compile error"
    assert list(cache.folder.iterdir()) == [cache.path(small, CPU).with_suffix(".lock")]


COMPILE_A_SUM = """
import sys, torch
from pathlib import Path
from kshot.bundle import NetworkSpec
from kshot.learner import CompilationError, StepCache

class Sum:
    network, text = NetworkSpec("none", {}), "a sum"

    def build(self, tuned_for=None):
        return lambda numbers: numbers + 1

    def example_arguments(self, device):
        return (torch.ones(3),)

try:
    StepCache.open(Path(sys.argv[1])).compile(Sum(), torch.device("cpu"))
except CompilationError as error:
    print(error)
"""


@needs_compiler
def test_a_compiler_that_links_the_c_plus_plus_library_statically_is_refused(
    tmp_path: Path,
) -> None:
    """In a process of its own: torch asks once for CXX. All programs are compiled alike."""
    compiler = str(shutil.which(str(compiler_name(CPU))))
    archive = subprocess.check_output([compiler, "-print-file-name=libstdc++.a"], text=True).strip()
    if not Path(archive).is_file():
        pytest.skip(f"{compiler} has no library to link statically")
    static = tmp_path / "g++"
    static.write_text(f'#!/bin/sh\nexec {compiler} -static-libstdc++ "$@"\n')
    static.chmod(0o700)
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", COMPILE_A_SUM, str(folder)]

    said = subprocess.check_output(command, text=True, env={**os.environ, "CXX": str(static)})

    assert said == (
        "the inner step cannot be compiled: CXX: expected a compiler that links the C++ library "
        "dynamically, got one that links it into programs; use one without -static-libstdc++\n"
    )
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


@needs_compiler
def test_what_a_killed_compilation_left_is_cleared_by_the_next(
    made: StepCache, small: StepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, whole = StepCache.open(tmp_path / "cache"), made.path(small, CPU).read_bytes()
    path = cache.path(small, CPU)
    scratch = path.with_suffix(".scratch")
    scratch.mkdir()
    (scratch / "half.cpp").write_text("int main(")
    monkeypatch.setattr(
        step_cache, "write_package", lambda _step, _like, package: package.write_bytes(whole)
    )

    cache.compile(small, CPU)

    beside = {path.with_suffix(suffix) for suffix in (".lock", ".compared")}
    assert set(cache.folder.iterdir()) == {path, *beside}


def test_without_a_compiler_nothing_is_compiled(
    small: StepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StepCache.open(tmp_path / "cache")
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(CompilationError) as caught:
        cache.compile(small, CPU)

    assert str(caught.value) == "no C++ compiler was found; install g++ or clang++"
    assert list(cache.folder.iterdir()) == []


def test_the_compiler_named_by_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "clang++"):
        (tmp_path / name).touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "mine")

    assert compiler_name(CPU) == "mine"
    monkeypatch.delenv("CXX")
    assert compiler_name(CPU) == "clang++"
    monkeypatch.setattr(step_cache, "find_spec", lambda _name: None)
    assert compiler_name(torch.device("cuda")) is None
