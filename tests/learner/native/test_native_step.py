"""Native steps beside plain ones. All shapes share one library, compiled once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import NetworkSpec, Scope
from kshot.learner import StepSpec, build_network, compiler_name, logits_of
from kshot.learner.compile.compilable import difference
from kshot.learner.native.library import load_native_package, write_native_package
from kshot.learner.native.native_step import (
    MOST_EVALUATED,
    FiltersLast,
    NativeStep,
    native_shape,
)
from kshot.learner.steps.ordered_step import OrderedStep
from kshot.learner.steps.task_losses import Objective

CPU = torch.device("cpu")
ArgumentsOf = Callable[[StepSpec, torch.dtype], list[torch.Tensor]]
StepOf = Callable[[StepSpec], OrderedStep]

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(compiler_name(CPU) is None, reason="no C++ compiler found"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("native") / "step.pt2"
    write_native_package(compiler_name(CPU) or "", package)
    return package


@pytest.fixture(scope="module")
def step_of(package: Path) -> StepOf:
    library = load_native_package(package)

    def make(spec: StepSpec) -> OrderedStep:
        shape = native_shape(spec, CPU)
        assert shape is not None
        step = NativeStep(library, shape)
        return OrderedStep(step, FiltersLast(step))

    return make


@pytest.fixture
def wide(spec: StepSpec) -> StepSpec:
    """A step with a whole vector of filters."""
    return replace(spec, network=NetworkSpec("conv4", {"filters": 16}))


@pytest.mark.parametrize(
    ("filters", "downsampling"),
    [(16, "stride"), (80, "stride"), (32, "max_pool"), (48, "max_pool")],
)
@pytest.mark.parametrize(
    "choices",
    [
        {"input_shape": (1, 28, 28)},
        {"input_shape": (3, 9, 14), "batch_size": 1, "way": 2},
        {"input_shape": (2, 1, 5), "way": 20, "batch_size": 7},
        {"input_shape": (1, 33, 17), "updates_second_moment": False},
        {"input_shape": (1, 16, 15), "weight_decay_rate": 0.9, "task_count": 3},
    ],
    ids=["28", "odd", "line", "frozen", "decay"],
)
def test_it_is_the_plain_step(
    spec: StepSpec,
    step_of: StepOf,
    arguments_of: ArgumentsOf,
    filters: int,
    downsampling: str,
    choices: dict[str, object],
) -> None:
    """Of one task and of several, the first with a padded way: within sums in another order."""
    network = NetworkSpec("conv4", {"filters": filters, "downsampling": downsampling})
    spec = replace(spec, network=network, **choices)  # type: ignore[arg-type]  # of one type each
    got, expected = (arguments_of(spec, torch.float32) for _ in range(2))
    double = arguments_of(spec, torch.float64)

    losses = step_of(spec)(*got)

    wanted = spec.build()(*expected)
    spec.build()(*double)
    torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-6)
    for result, reference, truth in zip(got[:2], expected, double, strict=False):
        slack = 4 * (reference - truth).abs().max().item() + 1e-6
        torch.testing.assert_close(result, reference, rtol=1e-4, atol=slack)
    assert difference(step_of(spec), spec, CPU) < 1e-3


@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
@pytest.mark.parametrize("count", [6, 11])
def test_it_answers_a_support_set_as_the_network_does(
    wide: StepSpec, step_of: StepOf, arguments_of: ArgumentsOf, downsampling: str, count: int
) -> None:
    """Of as many examples as a batch, and of more."""
    network = NetworkSpec("conv4", {"filters": 16, "downsampling": downsampling})
    spec = replace(wide, network=network)
    vectors = arguments_of(spec, torch.float32)[0]
    examples = torch.rand(count, *spec.input_shape)
    step = step_of(spec)

    answers = step.step.evaluate(step.order.enter(vectors)[0], examples)  # type: ignore[attr-defined]  # a native step

    built = build_network(network, spec.input_shape, spec.batch_norm_epsilon)
    logits, used = logits_of(built, spec.layout().split(vectors), examples[None])
    statistics = torch.cat([used[name][0] for name in built.statistics_shapes])
    torch.testing.assert_close(answers, (logits[0], statistics), rtol=1e-4, atol=1e-5)


def test_it_does_not_answer_more_than_its_buffers_shall_hold(
    wide: StepSpec, step_of: StepOf, arguments_of: ArgumentsOf
) -> None:
    examples = torch.rand(MOST_EVALUATED + 1, *wide.input_shape)

    assert step_of(wide).step.evaluate(arguments_of(wide, torch.float32)[0][0], examples) is None  # type: ignore[attr-defined]  # a native step


def test_kernels_have_their_filters_last(wide: StepSpec, step_of: StepOf) -> None:
    spec = replace(wide, input_shape=(3, 8, 8))
    order, layout = step_of(spec).order, spec.layout()
    vectors = torch.arange(2.0 * layout.size).reshape(2, -1)

    ordered = order.enter(vectors)

    wanted = {
        name: part.permute(0, 3, 4, 2, 1) if part.dim() == 5 else part
        for name, part in layout.split(vectors).items()
    }
    assert ordered.equal(torch.cat([part.flatten(1) for part in wanted.values()], dim=1))
    assert order.leave(ordered).equal(vectors)


def test_steps_of_tasks_alike_share_their_order(wide: StepSpec, step_of: StepOf) -> None:
    order = step_of(wide).order

    assert order == step_of(replace(wide, batch_size=9, task_count=3)).order
    assert order != step_of(replace(wide, way=9)).order


def test_a_task_that_has_diverged_leaves_the_others_alone(
    wide: StepSpec, step_of: StepOf, arguments_of: ArgumentsOf
) -> None:
    """As the plain step: what is not a number stays one, and goes nowhere else."""
    spec = replace(wide, task_count=3)
    given, alone = (arguments_of(spec, torch.float32) for _ in range(2))
    given[0][1, 0] = torch.nan

    losses = step_of(spec)(*given)

    expected = step_of(spec)(*alone)
    assert losses.isnan().tolist() == [False, True, False]
    assert given[0][1].isnan().all()
    for row in (0, 2):
        assert given[0][row].equal(alone[0][row])
        assert losses[row].equal(expected[row])


def test_a_task_takes_the_same_step_in_every_row(
    wide: StepSpec, step_of: StepOf, arguments_of: ArgumentsOf
) -> None:
    """To the bit, and in a launch of any width."""
    alone = arguments_of(wide, torch.float32)
    several = [argument.repeat(5, *[1] * (argument.dim() - 1)) for argument in alone]

    losses = step_of(wide)(*alone)

    assert step_of(replace(wide, task_count=5))(*several).equal(losses.repeat(5))
    assert several[0].equal(alone[0].repeat(5, 1))
    assert several[1].equal(alone[1].repeat(5, 1))


@pytest.mark.parametrize(
    "choices",
    [
        {"scope": Scope.HEAD},
        {"objective": Objective.SQUARED_ERROR},
        {"network": NetworkSpec("conv4", {"filters": 24})},
        {"network": NetworkSpec("mlp", {"hidden_units": 16, "hidden_layers": 1})},
    ],
    ids=["head", "regression", "filters", "mlp"],
)
def test_other_steps_have_no_native_form(wide: StepSpec, choices: dict[str, object]) -> None:
    assert native_shape(wide, CPU) is not None

    assert native_shape(replace(wide, **choices), CPU) is None  # type: ignore[arg-type]  # of one type each


def test_on_a_gpu_there_is_no_native_form(wide: StepSpec) -> None:
    assert native_shape(wide, torch.device("cuda")) is None
