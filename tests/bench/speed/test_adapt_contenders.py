"""kshot and the plain loop compute the same adaptation."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest
import torch
from torch import Tensor

from kshot.bench.speed import adapt_contenders, plain_loop
from kshot.bench.speed.adapt_contenders import (
    inner_step,
    kshot_loop,
    kshot_spec,
    named_parameters,
    plain,
    plain_model,
)
from kshot.bench.speed.timed_task import TimedTask
from kshot.bundle import Preconditioner
from kshot.learner import CompilationError, InnerStep, StepSpec

MakeTask = Callable[..., TimedTask]
AdaptWithKshot = Callable[[TimedTask], tuple[dict[str, Tensor], float]]


def test_the_plain_loop_takes_kshots_steps(
    make_task: MakeTask, adapt_with_kshot: AdaptWithKshot
) -> None:
    """The plain loop's Adam starts from the carried v and t: only rounding differs."""
    task = make_task(step_count=20)
    start = task.start()
    moments = named_parameters(start.layout, start.second_moment)
    model = plain_model(task)
    optimizer = plain_loop.adam(model, task.rule.learning_rate)
    for moment, parameter in zip(moments.values(), model.parameters(), strict=True):
        optimizer.state[parameter] = {
            "step": torch.tensor(float(start.step)),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": moment.clone(),
        }

    loss = plain_loop.run_steps(
        model, optimizer, plain_loop.Task(task.support, task.classes, task.batches)
    )

    parameters, kshots_loss = adapt_with_kshot(task)
    for ours, theirs in zip(parameters.values(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-5)
    assert kshots_loss == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_a_fresh_adam_differs_by_the_place_of_epsilon(
    make_task: MakeTask, adapt_with_kshot: AdaptWithKshot, fused: bool
) -> None:
    """PyTorch adds epsilon after the bias correction, the paper's TensorFlow before it.

    That matters where a gradient is about 1e-7 or less, so for few parameters, and there by at
    most a step's learning rate each step; the losses agree to a thousandth.
    """
    task = make_task(step_count=20, preconditioner=Preconditioner.FRESH)

    ours, ours_loss = adapt_with_kshot(task)
    model, loss = plain(task, fused=fused)()

    differences = torch.cat(
        [
            (value - theirs.detach()).abs().flatten()
            for value, theirs in zip(ours.values(), model.parameters(), strict=True)
        ]
    )
    assert float(differences.max()) <= 20 * task.rule.learning_rate
    assert float((differences < 1e-4).float().mean()) > 0.99
    assert ours_loss == pytest.approx(float(loss), rel=1e-3)


def test_each_adaptation_starts_anew(make_task: MakeTask) -> None:
    task = make_task(step_count=3)
    kshot, eager = kshot_loop(task, kshot_spec(task).build()), plain(task)

    (one,), (two,) = kshot(), kshot()
    (first, first_loss), (second, second_loss) = eager(), eager()

    assert torch.equal(one.parameters, two.parameters)
    assert torch.equal(one.losses, two.losses)
    for value, again in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(value, again)
    assert float(first_loss) == float(second_loss)


def test_the_plain_network_is_the_bundles(make_task: MakeTask) -> None:
    """Sides of 13 and 10 pixels are padded in both of TensorFlow's ways."""
    task = make_task()
    start = task.start()

    parameters = start.layout.split(start.parameters)
    features, _ = task.network.features(parameters, task.support[None], None)
    logits = features @ parameters["head.weight"].transpose(1, 2) + parameters["head.bias"]

    assert torch.allclose(plain_model(task)(task.support), logits[0], atol=1e-5)


def test_the_head_is_padded_to_a_bucket(
    make_task: MakeTask, adapt_with_kshot: AdaptWithKshot
) -> None:
    """The manifest's buckets are 5 and 20 ways."""
    task = make_task(way=3)

    assert kshot_spec(task).way == 5
    assert adapt_with_kshot(task)[0]["head.weight"].shape[0] == 3


def test_stacked_tasks_end_as_alone(make_task: MakeTask) -> None:
    task = make_task()
    spec = kshot_spec(task)
    (alone,) = kshot_loop(task, spec.build())()
    adapt = kshot_loop(task, spec.of_tasks(3).build(), 3)

    for _ in range(2):  # slots are taken again
        results = adapt()

        assert len(results) == 3
        for result in results:
            assert result.width == 3
            torch.testing.assert_close(result.parameters, alone.parameters)


def test_a_step_that_cannot_be_compiled(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused where compiling was asked for, and otherwise measured uncompiled."""

    def fail(_spec: StepSpec, _device: torch.device) -> InnerStep:
        raise CompilationError("no compiler was found")

    monkeypatch.setattr(adapt_contenders, "compile_step", fail)
    spec, device = kshot_spec(make_task()), torch.device("cpu")

    with pytest.raises(click.ClickException, match="no compiler was found"):
        inner_step(spec, device, compiled=True)
    assert inner_step(spec, device, compiled=None)[1] is False
    assert "no compiler was found; kshot is measured uncompiled" in capsys.readouterr().err
    assert inner_step(spec, device, compiled=False)[1] is False
