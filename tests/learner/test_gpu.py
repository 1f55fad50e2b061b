"""The same inner loop on a GPU: what only such a machine can show."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Bundle,
    Head,
    NetworkSpec,
    Preconditioner,
    Scope,
)
from kshot.learner import (
    Initialization,
    InnerLoopResult,
    InnerStep,
    Refinement,
    RefinementTask,
    Slots,
    SlotTask,
    StepRule,
    StepSpec,
    Tail,
    build_inner_step,
    compile_step,
    compiler_name,
    compute_reproducibly,
    cycling_indices,
    graphed,
    query_logits,
    refine,
    run_inner_loop,
    stack_states,
    start_state,
)
from kshot.learner.steps.loss_readback import LossReader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
ArgumentsOf = Callable[[StepSpec, torch.dtype], list[torch.Tensor]]
RULE = StepRule(Preconditioner.CARRIED, 1e-3)
SPEC = StepSpec(
    network=NetworkSpec("conv4", {"filters": 6}),
    input_shape=(1, 12, 12),
    batch_norm_epsilon=1e-3,
    way=5,
    batch_size=4,
    updates_second_moment=True,
    second_moment_decay=0.999,
    epsilon=1e-8,
    scope=Scope.ALL,
)
GPU = torch.device("cuda")
needs_compiler = pytest.mark.skipif(compiler_name(GPU) is None, reason="no compiler found")


@pytest.fixture(autouse=True)
def exact_float32() -> None:
    compute_reproducibly()


def _moved(initialization: Initialization, device: str, dtype: torch.dtype) -> Initialization:
    return replace(
        initialization,
        parameters={n: v.to(device, dtype) for n, v in initialization.parameters.items()},
        second_moment={n: v.to(device, dtype) for n, v in initialization.second_moment.items()},
    )


def _adapt(
    initialization: Initialization,
    device: str,
    dtype: torch.dtype,
    *,
    compiled: bool = False,
) -> tuple[InnerLoopResult, torch.Tensor]:
    """Adapt 6 stacked tasks by 20 steps; return the result and the support sets."""
    generator = torch.Generator().manual_seed(5)
    moved = _moved(initialization, device, dtype)
    state = stack_states(
        [
            start_state(moved, 5, head=Head.TRAINED, preconditioner=RULE.preconditioner)
            for _ in range(6)
        ]
    )
    support = torch.rand(6, 10, 1, 12, 12, generator=generator, dtype=torch.float64)
    classes = (torch.arange(10) % 5).expand(6, -1)
    indices = torch.stack([cycling_indices(10, 4, 20, seed) for seed in range(6)])
    if compiled:
        step = compile_step(SPEC.of_tasks(6), torch.device(device))
    else:
        step = graphed(build_inner_step(moved.network, state.layout, RULE), torch.device(device))
    support = support.to(device, dtype)
    on_device = support, classes.to(device), indices.to(device)
    return run_inner_loop(step, state, *on_device, RULE), support


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_a_gpu_adapts_as_a_cpu(
    initialization: Initialization, dtype: torch.dtype, tolerance: float
) -> None:
    reference, _ = _adapt(initialization, "cpu", dtype)

    result, _ = _adapt(initialization, "cuda", dtype)

    torch.testing.assert_close(result.losses.cpu(), reference.losses, rtol=0, atol=tolerance)

    torch.testing.assert_close(
        result.state.parameters.cpu(), reference.state.parameters, rtol=0, atol=tolerance
    )


@needs_compiler
def test_a_gpu_adapts_compiled_as_a_cpu(initialization: Initialization) -> None:
    """Compiled steps are float32's; 1e-3 after 20 steps, as uncompiled."""
    reference, _ = _adapt(initialization, "cpu", torch.float32)

    result, _ = _adapt(initialization, "cuda", torch.float32, compiled=True)

    torch.testing.assert_close(
        result.state.parameters.cpu(), reference.state.parameters, rtol=0, atol=1e-3
    )


def _assert_the_same_step(step: InnerStep, arguments_of: ArgumentsOf, spec: StepSpec) -> None:
    """In float32: one step to 1e-5, for sums run in another order; 20 to 1e-3."""
    plain = spec.build()
    got, expected = (
        [argument.to(GPU) for argument in arguments_of(spec, torch.float32)] for _ in range(2)
    )
    start = got[0].clone()
    for count in range(20):
        tolerance = 1e-5 if count == 0 else 1e-3

        losses = step(*got)

        torch.testing.assert_close(losses, plain(*expected), rtol=0, atol=tolerance)
        for tensor, reference in zip(got, expected, strict=True):
            torch.testing.assert_close(tensor, reference, rtol=0, atol=tolerance)
    assert not got[0].equal(start)


@needs_compiler
@pytest.mark.parametrize("updates_second_moment", [True, False])
def test_a_compiled_step_is_the_plain_one(
    arguments_of: ArgumentsOf, updates_second_moment: bool
) -> None:
    spec = replace(SPEC, updates_second_moment=updates_second_moment, task_count=3)

    _assert_the_same_step(compile_step(spec, GPU), arguments_of, spec)


@pytest.mark.parametrize("scope", list(Scope))
def test_a_graphed_step_is_the_plain_one(arguments_of: ArgumentsOf, scope: Scope) -> None:
    """Warming up before the graph is taken moves only the graph's own buffers."""
    spec = replace(SPEC, scope=scope, task_count=2)

    _assert_the_same_step(graphed(spec.build(), GPU), arguments_of, spec)


def test_a_graphs_losses_stay_when_it_runs_again(arguments_of: ArgumentsOf) -> None:
    step = graphed(SPEC.build(), GPU)
    arguments = [argument.to(GPU) for argument in arguments_of(SPEC, torch.float32)]
    first = step(*arguments)
    kept = first.clone()

    for _ in range(5):
        step(*arguments)

    assert first.equal(kept)


def test_a_loop_of_another_length_has_a_graph_of_its_own(initialization: Initialization) -> None:
    """Ten steps, two, then three others: what twelve steps and then three come to, one by one."""
    ends = []
    for cuts in ((0, 10, 12, 15), (0, 12, 15)):
        moved = _moved(initialization, "cuda", torch.float64)
        state = start_state(moved, 5, head=Head.TRAINED, preconditioner=RULE.preconditioner)
        generator = torch.Generator().manual_seed(5)
        support = torch.rand(1, 10, 1, 12, 12, generator=generator, dtype=torch.float64).to(GPU)
        classes = (torch.arange(10) % 5).unsqueeze(0).to(GPU)
        indices = cycling_indices(10, 4, 15, 7).unsqueeze(0).to(GPU)
        step = graphed(build_inner_step(moved.network, state.layout, RULE), GPU)
        for start, stop in pairwise(cuts):
            state = run_inner_loop(
                step, state, support, classes, indices[:, start:stop], RULE
            ).state
        ends.append(state.parameters)

    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-9)


def test_losses_arrive_one_step_late_but_complete() -> None:
    reader = LossReader(GPU)
    losses = torch.arange(8, dtype=torch.float32, device=GPU)

    read = [
        reader.read([1, 2], losses[0:2]),
        reader.read([2, 1, 3], losses[2:5]),
        reader.read([3], losses[5:6]),
        reader.read([3], losses[6:7]),
    ]

    assert read == [{}, {1: 0.0, 2: 1.0}, {2: 2.0, 1: 3.0, 3: 4.0}, {3: 5.0}]


def _slot_task(initialization: Initialization, seed: int, device: str) -> SlotTask:
    way, step_count = 2 + seed % 4, 3 + 2 * seed
    moved = _moved(initialization, device, torch.float32)
    state = start_state(moved, way, head=Head.TRAINED, preconditioner=RULE.preconditioner, bucket=5)
    generator = torch.Generator().manual_seed(seed)
    support = torch.rand(way * (1 + seed), 1, 12, 12, generator=generator)
    classes = torch.arange(way).repeat_interleave(1 + seed)
    indices = cycling_indices(len(support), 4, step_count, seed)
    return SlotTask(state, support.to(device), classes.to(device), indices.to(device), RULE)


@pytest.mark.parametrize(
    "form", ["plain", "graphed", pytest.param("compiled", marks=needs_compiler)]
)
def test_slots_on_a_gpu_end_as_tasks_alone_on_a_cpu(
    initialization: Initialization, form: str
) -> None:
    """Six tasks join at different steps, more than the four slots hold; 1e-3, as above."""

    def step_of_width(width: int) -> InnerStep:
        if form == "compiled":
            return compile_step(SPEC.of_tasks(width), GPU)
        return graphed(SPEC.build(), GPU) if form == "graphed" else SPEC.build()

    tasks = [_slot_task(initialization, seed, "cuda") for seed in range(6)]
    slots = Slots(step_of_width, (1, 2, 4), 4, 20, tasks[0])
    waiting, inside = list(range(6)), {}
    reported: dict[int, list[float]] = {}
    results = {}
    while waiting or inside:
        if waiting and not slots.full:
            place = waiting.pop(0)
            inside[slots.join(tasks[place])] = place
        for handle, loss in slots.advance().items():
            reported.setdefault(handle, []).append(loss)
        for handle in slots.finished():
            results[handle] = inside.pop(handle), slots.leave(handle)

    for handle, (place, result) in results.items():
        task = _slot_task(initialization, place, "cpu")
        alone = run_inner_loop(
            SPEC.build(),
            task.state,
            task.support[None],
            task.classes[None],
            task.indices[None],
            RULE,
        )
        torch.testing.assert_close(
            result.parameters.cpu(), alone.state.parameters[0], rtol=0, atol=1e-3
        )
        torch.testing.assert_close(result.losses.cpu(), alone.losses[:, 0], rtol=0, atol=1e-3)
        # A task's last loss is read by the advance after it: there is none after the last task's.
        assert reported[handle] == result.losses.tolist()[: len(reported[handle])]
        assert len(reported[handle]) >= task.step_count - 1
    assert len(results) == 6


@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_a_gpu_answers_as_a_cpu(initialization: Initialization, mode: BatchNormMode) -> None:
    answers = []
    for device in ("cpu", "cuda"):
        result, support = _adapt(initialization, device, torch.float64)
        parameters = result.state.layout.split(result.state.parameters)
        network = initialization.network
        answers.append(query_logits(network, parameters, support[:, :4], support, mode).cpu())

    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-8)


def test_a_tail_adapts_on_a_gpu_as_on_a_cpu(tail_bundle: Bundle) -> None:
    """And gives equal bits for equal tasks."""
    files, spec = tail_bundle.read_tail(), tail_bundle.manifest.tail
    assert files is not None
    assert spec is not None
    maps = torch.rand(3, 9, *spec.map_shape, generator=torch.Generator().manual_seed(0))

    def refined(device: str) -> Refinement:
        start = {
            name: torch.tensor(array, device=device) for name, array in files.parameters.items()
        }
        classes = torch.arange(3, device=device).repeat(3)
        logits = torch.zeros(9, 3, device=device)
        task = RefinementTask(maps.to(device), classes, 3, logits, 5, 3, seed=1)
        steps = refine(Tail(spec), start, task)
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
        result: Refinement = end.value.value
        return result

    cpu, gpu, again = map(refined, ("cpu", "cuda", "cuda"))

    assert cpu.weight == gpu.weight > 0
    for name, value in gpu.parameters.items():
        assert torch.equal(value, again.parameters[name])
        torch.testing.assert_close(value.cpu(), cpu.parameters[name], rtol=0, atol=1e-2)
