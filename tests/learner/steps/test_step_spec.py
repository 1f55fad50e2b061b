import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch

from kshot.bundle import Manifest, NetworkSpec, Preconditioner, Scope
from kshot.learner import (
    NETWORKS,
    Conv4,
    Objective,
    StepRule,
    StepSpec,
    Tunable,
    build_inner_step,
    layout_of,
)

ArgumentsOf = Callable[[StepSpec, torch.dtype], list[torch.Tensor]]
CHANGES = [
    {"network": NetworkSpec("conv4", {"filters": 5})},
    {"input_shape": (1, 8, 9)},
    {"batch_norm_epsilon": 1e-5},
    {"way": 5},
    {"batch_size": 5},
    {"updates_second_moment": False},
    {"second_moment_decay": 0.99},
    {"epsilon": 1e-7},
    {"scope": Scope.HEAD},
    {"task_count": 3},
    {"weight_decay_rate": 0.99},
    {"objective": Objective.SQUARED_ERROR},
]


@pytest.mark.parametrize("change", [{}, *CHANGES])
def test_a_document_survives_json(spec: StepSpec, change: dict[str, object]) -> None:
    spec = replace(spec, **change)

    read = StepSpec.from_document(json.loads(json.dumps(spec.document())))

    assert read == spec
    assert read.text == spec.text
    assert hash(read) == hash(spec)


def test_every_field_makes_another_step(spec: StepSpec) -> None:
    specs = [spec, *(replace(spec, **change) for change in CHANGES)]

    assert len({each.text for each in specs}) == len(set(specs)) == len(fields(StepSpec)) + 1
    assert "\n" not in spec.text
    assert spec.of_tasks(3) == replace(spec, task_count=3)


def test_a_spec_says_what_bundle_and_rule_say(manifest: Manifest) -> None:
    rule = StepRule(Preconditioner.FRESH, 0.1, 0.99, 1e-6, 0.9)

    spec = StepSpec.of(manifest, 7, 10, rule, Scope.HEAD)

    assert (spec.network, spec.input_shape) == (manifest.network, manifest.input.shape)
    assert spec.batch_norm_epsilon == manifest.batch_norm.epsilon
    assert (spec.way, spec.batch_size, spec.scope) == (7, 10, Scope.HEAD)
    assert (spec.weight_decay_rate, spec.objective) == (0.9, Objective.CROSS_ENTROPY)
    assert (spec.second_moment_decay, spec.epsilon) == (0.99, 1e-6)
    assert (spec.updates_second_moment, spec.task_count) == (True, 1)
    frozen = StepSpec.of(manifest, 7, 10, StepRule(Preconditioner.FROZEN, 0.1), Scope.ALL)
    assert not frozen.updates_second_moment


@pytest.mark.parametrize("tuned_for", [None, torch.device("cpu"), torch.device("cuda")])
@pytest.mark.parametrize("updates_second_moment", [True, False])
@pytest.mark.parametrize("scope", list(Scope))
def test_the_step_built_is_the_networks(
    spec: StepSpec,
    arguments_of: ArgumentsOf,
    tuned_for: torch.device | None,
    updates_second_moment: bool,
    scope: Scope,
) -> None:
    """The generic path and the tuned forms, a padded way among the tasks, in float64."""
    spec = replace(spec, updates_second_moment=updates_second_moment, scope=scope, task_count=2)
    got, expected = (arguments_of(spec, torch.float64) for _ in range(2))

    losses = spec.build(tuned_for)(*got)

    network = Conv4((1, 8, 8), filters=4)
    preconditioner = Preconditioner.CARRIED if updates_second_moment else Preconditioner.FROZEN
    rule = StepRule(preconditioner, 1.0)
    step = build_inner_step(network, layout_of(network, 4), rule, scope)
    torch.testing.assert_close(losses, step(*expected), rtol=0, atol=1e-12)
    for tensor, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(tensor, reference, rtol=0, atol=1e-12)
    assert not got[0].equal(arguments_of(spec, torch.float64)[0])


def test_the_arguments_made_are_of_the_steps_shapes(
    spec: StepSpec, arguments_of: ArgumentsOf
) -> None:
    spec = spec.of_tasks(3)

    made = spec.example_arguments(torch.device("cpu"))

    wanted = arguments_of(spec, torch.float32)
    assert [(each.shape, each.dtype) for each in made] == [(w.shape, w.dtype) for w in wanted]
    again = spec.example_arguments(torch.device("cpu"))
    assert all(one.equal(other) for one, other in zip(made, again, strict=True))
    losses = spec.build()(*made)
    assert losses.isfinite().all()
    assert not made[0].equal(again[0])


@dataclass(frozen=True)
class _Plain:
    """A network that knows no faster form of itself: only what the learner asks of every one."""

    conv4: Conv4

    def __getattr__(self, name: str) -> object:
        if name == "tuned":
            raise AttributeError(name)
        return getattr(self.conv4, name)


def test_a_network_without_a_tuned_form_goes_the_generic_way(
    spec: StepSpec, arguments_of: ArgumentsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "plain", lambda **arguments: _Plain(Conv4(**arguments)))
    got, expected = (arguments_of(spec, torch.float64) for _ in range(2))

    step = replace(spec, network=NetworkSpec("plain", {"filters": 4})).build(torch.device("cpu"))

    assert isinstance(Conv4((1, 8, 8)), Tunable)
    assert not isinstance(_Plain(Conv4((1, 8, 8))), Tunable)
    assert step(*got).equal(spec.build()(*expected))
    assert got[0].equal(expected[0])


@pytest.mark.parametrize(
    "change", [{}, {"way": 2}, {"way": 1, "objective": Objective.SQUARED_ERROR, "task_count": 3}]
)
def test_the_plain_step_takes_its_example_arguments(
    spec: StepSpec, change: dict[str, object]
) -> None:
    """A compiled step is compared on them, so they must move the parameters."""
    spec = replace(spec, **change)
    arguments = spec.example_arguments(torch.device("cpu"))
    before = arguments[0].clone()

    losses = spec.build()(*arguments)

    assert losses.shape == (spec.task_count,)
    assert losses.isfinite().all()
    assert not arguments[0].equal(before)
    assert arguments[0].isfinite().all()
