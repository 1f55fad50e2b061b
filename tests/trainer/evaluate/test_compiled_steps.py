"""What decides about compiling; that compiled steps compute the same is tested in the learner."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Manifest, Scope
from kshot.learner import CompilationError, Initialization, InnerStep, StepSpec
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate import compiled_steps as module
from kshot.trainer.evaluate.compiled_steps import WORTHWHILE_STEPS, CompiledSteps
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import TaskSolver, build_solver
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episodes import sample_episodes

SETTINGS = EvaluationSettings(4, 1, 1, 1, BatchNormMode.SUPPORT, step_count=3)
CPU = torch.device("cpu")


def give(
    solvers: Sequence[TaskSolver],
    manifest: Manifest,
    step_count: int,
    *,
    compiled: bool | None,
    tasks_at_once: int = 1,
    say: Callable[[str], None] = lambda _sentence: None,
) -> Sequence[TaskSolver]:
    steps = CompiledSteps(manifest, CPU, compiled, say)
    return steps.give(solvers, step_count, tasks_at_once)


class Compiler:
    """Stands in for the compiler: builds steps, and counts how often one is built and called."""

    def __init__(self) -> None:
        self.specs: list[StepSpec] = []
        self.calls: list[int] = []
        self.error: Exception | None = None

    def __call__(self, spec: StepSpec, device: torch.device) -> InnerStep:
        assert device.type == "cpu"
        if self.error is not None:
            raise self.error
        self.specs.append(spec)
        step = spec.build()

        def counted(parameters: Tensor, *others: Tensor) -> Tensor:
            self.calls.append(len(parameters))
            return step(parameters, *others)

        return counted


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    compiler = Compiler()
    monkeypatch.setattr(module, "compile_step", compiler)
    monkeypatch.setattr(module, "compiler_name", lambda _device: "g++")
    monkeypatch.setattr(module, "_compiled_before", lambda _spec, _device: False)
    return compiler


@pytest.fixture
def manifest(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> Manifest:
    return draft_manifest(small_recipe(), patterns())


@pytest.fixture
def solver(
    manifest: Manifest,
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Callable[..., ImageDataset],
) -> TaskSolver:
    pixels = DevicePixels.load(patterns(), manifest.input, CPU)
    return build_solver(make_initialization(manifest), manifest, pixels, SETTINGS)


@pytest.mark.parametrize(
    ("compiled", "step_count", "wanted"),
    [
        (True, 3, True),
        (False, WORTHWHILE_STEPS, False),
        (None, WORTHWHILE_STEPS, True),
        (None, WORTHWHILE_STEPS - 1, False),
        (True, 0, False),
    ],
)
def test_steps_are_compiled_when_asked_or_worth_it(
    manifest: Manifest,
    solver: TaskSolver,
    compiler: Compiler,
    compiled: bool | None,
    step_count: int,
    wanted: bool,
) -> None:
    said: list[str] = []
    (found,) = give([solver], manifest, step_count, compiled=compiled, say=said.append)

    assert (len(compiler.specs) == 1) is wanted
    assert (found is not solver) is wanted
    assert said == (["compiling the inner step", "the inner step is compiled"] if wanted else [])


def test_a_step_compiled_before_is_used(
    manifest: Manifest, solver: TaskSolver, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_compiled_before", lambda _spec, _device: True)
    said: list[str] = []
    give([solver], manifest, 1, compiled=None, say=said.append)

    assert len(compiler.specs) == 1
    assert said == ["the inner step is compiled"]


def test_a_smaller_last_stack_uses_the_plain_step(
    manifest: Manifest,
    solver: TaskSolver,
    compiler: Compiler,
    patterns: Callable[..., ImageDataset],
) -> None:
    (found,) = give([solver], manifest, 1, tasks_at_once=2, compiled=True)
    episodes = sample_episodes(patterns(), 3, 4, 1, 1, torch.Generator().manual_seed(0))
    compiler.calls.clear()

    for part in (episodes[0:2], episodes[2:4]):
        one, other = (each.adapt(part, 0)["head.bias"] for each in (found, solver))
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)

    assert compiler.calls == [2] * 3
    assert compiler.specs[0].task_count == 2


@pytest.mark.parametrize("error", [CompilationError("no compiler"), RuntimeError("bad\nmore")])
def test_a_failed_compilation_is_told_or_refused(
    manifest: Manifest, solver: TaskSolver, compiler: Compiler, error: Exception
) -> None:
    compiler.error = error
    said: list[str] = []
    (found,) = give([solver], manifest, 10**6, compiled=None, say=said.append)

    reason = str(error).split("\n")[0]
    assert found is solver
    assert said[-1] == f"{reason}; the evaluation is slower without"
    with pytest.raises(TrainingError, match=f"^{reason}$"):
        give([solver], manifest, 1, compiled=True)


def test_the_step_is_that_of_the_solver(
    manifest: Manifest, solver: TaskSolver, compiler: Compiler
) -> None:
    other = replace(solver, batch_size=7, rule=replace(solver.rule, weight_decay_rate=0.9))
    give([other], manifest, 1, compiled=True)

    (spec,) = compiler.specs
    assert (spec.way, spec.batch_size, spec.scope) == (4, 7, solver.scope)
    assert spec.weight_decay_rate == 0.9
    assert spec.updates_second_moment is solver.rule.updates_second_moment


@pytest.mark.parametrize(
    ("compiled", "step_count", "wanted"),
    [
        (None, 2 * WORTHWHILE_STEPS, True),
        (None, 2 * WORTHWHILE_STEPS - 1, False),
        (True, 3, True),
    ],
)
def test_compared_steps_are_all_compiled_or_none(
    manifest: Manifest,
    solver: TaskSolver,
    compiler: Compiler,
    compiled: bool | None,
    step_count: int,
    wanted: bool,
) -> None:
    solvers = [solver, replace(solver, seed=1), replace(solver, scope=Scope.HEAD)]
    said: list[str] = []
    found = give(solvers, manifest, step_count, compiled=compiled, say=said.append)

    kept = [of.inner_step is before.inner_step for of, before in zip(found, solvers, strict=True)]
    assert kept == [not wanted] * 3
    assert [spec.scope for spec in compiler.specs] == ([Scope.ALL, Scope.HEAD] if wanted else [])
    assert said == (["compiling the inner step"] * 2 + ["2 inner steps are compiled"]) * wanted


def test_one_failed_compilation_leaves_all_plain(
    manifest: Manifest, solver: TaskSolver, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole_network(spec: StepSpec, device: torch.device) -> InnerStep:
        if spec.scope is Scope.HEAD:
            raise CompilationError("no compiler for that")
        return compiler(spec, device)

    monkeypatch.setattr(module, "compile_step", whole_network)
    solvers = [solver, replace(solver, scope=Scope.HEAD)]
    said: list[str] = []
    found = give(solvers, manifest, 10**6, compiled=None, say=said.append)

    assert found is solvers
    assert said[-1] == "no compiler for that; the evaluation is slower without"


@pytest.mark.usefixtures("compiler")
def test_steps_compiled_before_cost_nothing(
    manifest: Manifest, solver: TaskSolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_compiled_before", lambda spec, _device: spec.scope is Scope.ALL)
    solvers = [solver, replace(solver, scope=Scope.HEAD)]
    counts = (WORTHWHILE_STEPS - 1, WORTHWHILE_STEPS)
    few, enough = (give(solvers, manifest, count, compiled=None) for count in counts)

    assert few is solvers
    assert enough is not solvers


def test_steps_are_compiled_once(
    manifest: Manifest, solver: TaskSolver, compiler: Compiler
) -> None:
    steps = CompiledSteps(manifest, CPU, compiled=True, say=lambda _sentence: None)
    for _ in range(2):
        steps.give([solver], 1, 1)

    assert len(compiler.specs) == 1
