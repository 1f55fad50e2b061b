from collections.abc import Mapping

import pytest
import torch

from kshot.bundle import Head, NetworkSpec, Preconditioner, Scope
from kshot.learner import (
    Features,
    Initialization,
    StepRule,
    build_inner_step,
    build_network,
    cycling_indices,
    initial_parameters,
    layout_of,
    logits_of,
    run_inner_loop,
    start_state,
)

CLASSES = torch.tensor([0, 0, 1, 1, 2, 2])


def vectors(seed: int = 0) -> torch.Tensor:
    """Make two vectors ``(6, 4, 1, 1)`` near each of three directions."""
    generator = torch.Generator().manual_seed(seed)
    noise = 0.1 * torch.randn(6, 4, 1, 1, generator=generator)
    return torch.eye(4)[CLASSES][:, :, None, None] * torch.arange(1, 7)[:, None, None, None] + noise


def start(network: Features) -> Initialization:
    parameters = initial_parameters(network, 3, torch.Generator().manual_seed(1))
    moment = {name: torch.full_like(value, 1e-4) for name, value in parameters.items()}
    return Initialization(network, 3, parameters, moment, 100)


def test_features_are_directions() -> None:
    """Of any length; a vector of zeros stays one."""
    network = Features((4, 1, 1), scale=2.0)
    inputs = torch.cat([vectors(), torch.zeros(1, 4, 1, 1)])

    features, statistics = network.features({}, inputs[None], None)

    torch.testing.assert_close(features[0].norm(dim=1), torch.tensor([2.0] * 6 + [0.0]))
    longer, _ = network.features({}, 7 * inputs[None], None)
    torch.testing.assert_close(longer, features)
    assert statistics == {}


def test_a_head_of_class_means_gives_cosines() -> None:
    """Of one example per class: ``2 scale^2 cos`` up to a constant of all classes."""
    network = Features((4, 1, 1), scale=3.0)
    examples = vectors()[::2]
    state = start_state(
        start(network),
        3,
        head=Head.PROTOTYPE,
        preconditioner=Preconditioner.CARRIED,
        support=examples,
        classes=torch.arange(3),
    )

    logits, _ = logits_of(network, state.layout.split(state.parameters), vectors(1)[None])

    flat = vectors(1).flatten(1), examples.flatten(1)
    cosines = torch.nn.functional.cosine_similarity(flat[0][:, None], flat[1][None], dim=2)
    torch.testing.assert_close(logits[0], 18 * cosines - 9.0)


@pytest.mark.parametrize("preconditioner", list(Preconditioner))
def test_without_a_body_all_and_head_adapt_alike(preconditioner: Preconditioner) -> None:
    network = Features((4, 1, 1))
    state = start_state(start(network), 3, head=Head.ZERO, preconditioner=preconditioner, bucket=5)
    rule = StepRule(preconditioner, 0.1)
    adapted = []
    for scope in Scope:
        step = build_inner_step(network, state.layout, rule, scope)
        indices = cycling_indices(6, 3, 20, seed=0)[None]
        result = run_inner_loop(step, state, vectors()[None], CLASSES[None], indices, rule)
        adapted.append(result.state.parameters)

    assert adapted[0].equal(adapted[1])
    logits, _ = logits_of(network, state.layout.split(adapted[0]), vectors()[None])
    assert logits[0, :, :3].argmax(dim=1).equal(CLASSES)


def test_a_learned_scale_starts_at_one_and_adapts() -> None:
    network = Features((4, 1, 1), learned_scale=True)
    plain = Features((4, 1, 1))
    layout = layout_of(network, 3)
    parameters = initial_parameters(network, 3, torch.Generator().manual_seed(1))

    with_scale, _ = network.features({"features.scale": torch.ones(1, 4)}, vectors()[None], None)

    assert with_scale.equal(plain.features({}, vectors()[None], None)[0])
    state = start_state(start(network), 3, head=Head.TRAINED, preconditioner=Preconditioner.SGD)
    rule = StepRule(Preconditioner.SGD, 0.1)
    indices = cycling_indices(6, 6, 3, seed=0)[None]
    step = build_inner_step(network, layout, rule)
    adapted = run_inner_loop(step, state, vectors()[None], CLASSES[None], indices, rule).state
    assert not layout.split(adapted.parameters)["features.scale"][0].equal(
        parameters["features.scale"]
    )


@pytest.mark.parametrize(
    ("shape", "arguments", "problem"),
    [
        ((4, 2, 1), {}, r"features input_shape: expected vectors \(F, 1, 1\), got \(4, 2, 1\)"),
        ((4, 1, 1), {"normalize": 1}, "features normalize: expected true or false, got 1"),
        ((4, 1, 1), {"scale": 0.0}, "features scale: expected a number above 0, got 0.0"),
        ((4, 1, 1), {"scale": "big"}, "features scale: expected a number above 0, got 'big'"),
    ],
)
def test_wrong_arguments_are_refused(
    shape: tuple[int, int, int], arguments: Mapping[str, int | float | str | bool], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        build_network(NetworkSpec("features", arguments), shape, 1e-3)
