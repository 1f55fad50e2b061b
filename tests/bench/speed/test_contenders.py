"""All contenders of `kshot bench adapt` compute the same thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click
import pytest
import torch
from torch import Tensor

from kshot.bench.speed import contenders, plain_loop
from kshot.bench.speed.contenders import (
    Adapt,
    inner_step,
    jax_loop,
    kshot_loop,
    kshot_spec,
    named_parameters,
    plain,
    plain_model,
    plain_parameters,
)
from kshot.bench.speed.timed_tasks import AdaptTask
from kshot.bundle import Preconditioner
from kshot.learner import CompilationError, InnerStep, StepSpec

MakeTask = Callable[..., AdaptTask]


def kshot(task: AdaptTask) -> Adapt:
    """Return kshot's contender, uncompiled: a tiny network does not repay a compiler."""
    return kshot_loop(task, kshot_spec(task).build())


def largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_jax_and_kshot_take_the_same_steps(make_task: MakeTask) -> None:
    """Both in float32 from the same carried v: what is left is rounding."""
    task = make_task(step_count=20)

    ours, jax = kshot(task)(), jax_loop(task)()

    assert largest_difference(ours.parameters(), jax.parameters()) < 1e-5
    assert ours.loss() == pytest.approx(jax.loss(), rel=1e-4)


def test_the_plain_loop_and_kshot_take_the_same_steps_from_the_same_second_moment(
    make_task: MakeTask,
) -> None:
    """The plain loop's Adam is handed the carried v and t: what is left is rounding."""
    task = make_task(step_count=20)
    start = task.start()
    moments = named_parameters(start.layout, start.second_moment)
    model = plain_model(task)
    optimizer = plain_loop.adam(model, task.rule.learning_rate)
    for name, parameter in zip(plain_parameters(model), model.parameters(), strict=True):
        optimizer.state[parameter] = {
            "step": torch.tensor(float(start.step)),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": moments[name].clone(),
        }

    loss = plain_loop.run_steps(
        model, optimizer, plain_loop.Task(task.support, task.classes, task.batches)
    )

    ours = kshot(task)()
    assert largest_difference(ours.parameters(), plain_parameters(model)) < 1e-5
    assert ours.loss() == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_fresh_adam_differs_from_kshots_by_where_epsilon_stands(
    make_task: MakeTask, fused: bool
) -> None:
    """PyTorch adds epsilon after the bias correction, the paper's TensorFlow before it.

    That is of weight where a gradient is about 1e-7 or less, so for few parameters, and there by at
    most a step's learning rate each step; the losses agree to a thousandth.
    """
    task = make_task(step_count=20, preconditioner=Preconditioner.FRESH)

    ours, theirs = kshot(task)(), plain(task, fused=fused)()

    parameters = theirs.parameters()
    differences = torch.cat(
        [(value - parameters[name]).abs().flatten() for name, value in ours.parameters().items()]
    )
    assert float(differences.max()) <= 20 * task.rule.learning_rate
    assert float((differences < 1e-4).float().mean()) > 0.99
    assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-3)


def test_adapting_twice_starts_twice_from_the_same(make_task: MakeTask) -> None:
    task = make_task(step_count=3)

    for contender in (kshot(task), plain(task), jax_loop(task)):
        first, second = contender(), contender()

        assert largest_difference(first.parameters(), second.parameters()) == 0
        assert first.loss() == second.loss()


def test_the_plain_network_is_the_bundles(make_task: MakeTask) -> None:
    """Sides of 13 and 10 pixels are padded in both of TensorFlow's ways."""
    task = make_task()
    start = task.start()

    parameters = start.layout.split(start.parameters)
    features, _ = task.network.features(parameters, task.support[None], None)
    logits = features @ parameters["head.weight"].transpose(1, 2) + parameters["head.bias"]

    assert torch.allclose(plain_model(task)(task.support), logits[0], atol=1e-5)


def test_a_head_padded_to_a_bucket_is_measured_and_given_back_without_the_padding(
    make_task: MakeTask,
) -> None:
    """The manifest's buckets are 5 and 20 ways."""
    task = make_task(way=3)

    assert kshot_spec(task).way == 5
    assert kshot(task)().parameters()["head.weight"].shape[0] == 3


def test_a_step_that_cannot_be_compiled_is_refused_or_said_to_be_uncompiled(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_spec: StepSpec, _device: torch.device) -> InnerStep:
        raise CompilationError("no compiler was found")

    monkeypatch.setattr(contenders, "compile_step", fail)
    spec, device = kshot_spec(make_task()), torch.device("cpu")

    with pytest.raises(click.ClickException, match="no compiler was found"):
        inner_step(spec, device, compiled=True)
    assert inner_step(spec, device, compiled=None)[1] is False
    assert "no compiler was found; kshot is measured uncompiled" in capsys.readouterr().err
    assert inner_step(spec, device, compiled=False)[1] is False
