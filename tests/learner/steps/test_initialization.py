from dataclasses import replace

import pytest
import torch

from kshot.bundle import Head, Preconditioner, RidgeRule, RidgeSettings, Weights
from kshot.learner import (
    Conv4,
    Initialization,
    LoopState,
    Mlp,
    initial_parameters,
    logits_of,
    ridge_head,
    stack_states,
    start_state,
)


def _parts(state: LoopState) -> dict[str, torch.Tensor]:
    return {name: value[0] for name, value in state.layout.split(state.parameters).items()}


def _start(initialization: Initialization, way: int, head: Head, **others: object) -> LoopState:
    return start_state(
        initialization, way, head=head, preconditioner=Preconditioner.CARRIED, **others
    )


@pytest.mark.parametrize("way", [2, 5, 7, 20])
def test_trained_head_keeps_its_rows_and_adds_the_mean_row(
    initialization: Initialization, way: int
) -> None:
    state = _start(initialization, way, Head.TRAINED)

    moments = {n: v[0] for n, v in state.layout.split(state.second_moment).items()}
    for name in ("head.weight", "head.bias"):
        for got, trained in (
            (_parts(state)[name], initialization.parameters[name]),
            (moments[name], initialization.second_moment[name]),
        ):
            assert got.shape[0] == way
            assert got[:5].equal(trained[: min(way, 5)])
            for row in got[5:]:
                torch.testing.assert_close(row, trained.mean(dim=0), rtol=0, atol=1e-15)


def test_zero_head_keeps_the_trained_second_moment(initialization: Initialization) -> None:
    state = _start(initialization, 3, Head.ZERO)

    assert not _parts(state)["head.weight"].any()
    assert not _parts(state)["head.bias"].any()
    moments = state.layout.split(state.second_moment)
    assert moments["head.weight"][0].equal(initialization.second_moment["head.weight"][:3])


def test_prototype_head_ranks_by_distance_to_the_class_means(
    initialization: Initialization, support: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, classes = support

    state = _start(initialization, 5, Head.PROTOTYPE, support=images, classes=classes)

    shared = {name: value.unsqueeze(0) for name, value in initialization.parameters.items()}
    features, _ = initialization.network.features(shared, images.unsqueeze(0), None)
    means = torch.stack([features[0][classes == c].mean(dim=0) for c in range(5)])
    logits = features[0] @ _parts(state)["head.weight"].T + _parts(state)["head.bias"]
    squared_norms = features[0].square().sum(dim=1, keepdim=True)
    distances = torch.cdist(features[0], means).square()
    torch.testing.assert_close(logits, squared_norms - distances, rtol=0, atol=1e-9)


def test_held_out_logits_are_those_of_a_start_without_the_example() -> None:
    """A network without batch statistics: else a left-out example still moves them."""
    images, classes = torch.rand(9, 1, 8, 8), torch.arange(9) % 3
    network = Mlp((1, 8, 8), batch_norm=False, hidden_units=5)
    drawn = initial_parameters(network, 3, torch.Generator().manual_seed(0))
    start = Initialization(network, 3, drawn, drawn, 1)

    state = _start(start, 3, Head.PROTOTYPE, support=images, classes=classes)
    others = _start(start, 3, Head.PROTOTYPE, support=images[1:], classes=classes[1:])

    assert state.held_out_logits is not None
    without, _ = logits_of(network, others.layout.split(others.parameters), images[None, :1])
    torch.testing.assert_close(state.held_out_logits[0], without[0, 0])


def test_ridge_head_is_padded_to_its_bucket(
    initialization: Initialization, support: tuple[torch.Tensor, torch.Tensor]
) -> None:
    images, classes = support
    features, _ = initialization.network.features(
        {name: value[None] for name, value in initialization.parameters.items()}, images[None], None
    )
    settings = RidgeSettings((features.shape[2],), (RidgeRule(1, 0.3, 0.5, 4.0, (1.0,)),))
    fit = ridge_head(features[0], classes, 5, settings)

    start = replace(initialization, ridge=settings)
    state = _start(start, 5, Head.RIDGE, support=images, classes=classes, bucket=8)

    torch.testing.assert_close(_parts(state)["head.weight"][:5], fit.weight)
    torch.testing.assert_close(_parts(state)["head.bias"][:5], fit.bias)
    assert not _parts(state)["head.weight"][5:].any()
    with pytest.raises(ValueError, match="ridge with its settings"):
        _start(initialization, 5, Head.RIDGE, support=images, classes=classes)


def test_an_example_that_is_alone_has_no_held_out_logits(initialization: Initialization) -> None:
    images = torch.rand(4, *initialization.network.input_shape, dtype=torch.float64)
    classes = torch.tensor([0, 1, 1, 2])

    state = _start(initialization, 3, Head.PROTOTYPE, support=images, classes=classes)

    assert state.held_out_logits is not None
    assert state.held_out_logits.any(dim=1).tolist() == [False, True, True, False]


def test_prototype_head_needs_examples(initialization: Initialization) -> None:
    with pytest.raises(ValueError, match="needs the support set"):
        _start(initialization, 5, Head.PROTOTYPE)


@pytest.mark.parametrize("preconditioner", [Preconditioner.FRESH, Preconditioner.SGD])
def test_fresh_starts_forget_the_second_moment(
    initialization: Initialization, preconditioner: Preconditioner
) -> None:
    state = start_state(initialization, 5, head=Head.TRAINED, preconditioner=preconditioner)

    assert state.step == 0
    assert not state.second_moment.any()


def test_stacking_refuses_tasks_of_different_buckets(initialization: Initialization) -> None:
    with pytest.raises(ValueError, match="different way buckets"):
        stack_states(
            [_start(initialization, 5, Head.TRAINED), _start(initialization, 7, Head.TRAINED)]
        )


def test_weights_of_another_network_are_refused(initialization: Initialization) -> None:
    arrays = {name: value.float().numpy() for name, value in initialization.parameters.items()}
    wrong = {name: array for name, array in arrays.items() if not name.startswith("block4")}

    with pytest.raises(ValueError, match="block4"):
        Initialization.from_weights(
            Conv4((1, 12, 12), filters=6), Weights(wrong, wrong, 1), torch.device("cpu")
        )
