"""The same inner loop on a GPU: what only such a machine can show."""

import pytest
import torch

from kshot.bundle import BatchNormMode, Head, Preconditioner
from kshot.learner import (
    Initialization,
    InnerLoopResult,
    StepRule,
    build_inner_step,
    compile_step,
    cycling_indices,
    query_logits,
    run_inner_loop,
    stack_states,
    start_state,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
RULE = StepRule(Preconditioner.CARRIED, 1e-3)


def _adapt(
    initialization: Initialization, device: str, dtype: torch.dtype, *, compiled: bool = False
) -> tuple[InnerLoopResult, torch.Tensor]:
    """Adapt 6 stacked tasks by 20 steps; return the result and the support sets."""
    generator = torch.Generator().manual_seed(5)
    moved = Initialization(
        initialization.network,
        initialization.way,
        {name: value.to(device, dtype) for name, value in initialization.parameters.items()},
        {name: value.to(device, dtype) for name, value in initialization.second_moment.items()},
        initialization.step,
    )
    state = stack_states(
        [
            start_state(moved, 5, head=Head.TRAINED, preconditioner=RULE.preconditioner)
            for _ in range(6)
        ]
    )
    support = torch.rand(6, 10, 1, 12, 12, generator=generator, dtype=torch.float64)
    classes = (torch.arange(10) % 5).expand(6, -1)
    indices = torch.stack([cycling_indices(10, 4, 20, seed) for seed in range(6)])
    step = build_inner_step(moved.network, state.layout, RULE)
    support = support.to(device, dtype)
    result = run_inner_loop(
        compile_step(step) if compiled else step,
        state,
        support,
        classes.to(device),
        indices.to(device),
        RULE,
    )
    return result, support


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_a_gpu_adapts_as_a_cpu(
    initialization: Initialization, dtype: torch.dtype, tolerance: float, compiled: bool
) -> None:
    reference, _ = _adapt(initialization, "cpu", dtype)

    result, _ = _adapt(initialization, "cuda", dtype, compiled=compiled)

    torch.testing.assert_close(
        result.state.parameters.cpu(), reference.state.parameters, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("mode", list(BatchNormMode))
def test_a_gpu_answers_as_a_cpu(initialization: Initialization, mode: BatchNormMode) -> None:
    answers = []
    for device in ("cpu", "cuda"):
        result, support = _adapt(initialization, device, torch.float64)
        parameters = result.state.layout.split(result.state.parameters)
        network = initialization.network
        answers.append(query_logits(network, parameters, support[:, :4], support, mode).cpu())

    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-8)
