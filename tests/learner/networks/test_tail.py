"""The tail: inverted residuals as a function of parameters, and its answers beside the head's."""

import pytest
import torch
from torch import nn

from kshot.bundle import TAIL_CLASSES, TailBlock, TailSpec
from kshot.learner import Tail, mixed_logits, split_maps

SPEC = TailSpec(
    map_shape=(4, 5, 5),
    blocks=(TailBlock(2, 4, 1), TailBlock(3, 6, 2)),
    feature_count=7,
    learning_rate=0.001,
    likeness=0.5,
    slope=1.0,
)


def parameters_of(tail: Tail) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in tail.shapes.items()}


def test_blocks_add_their_input_where_shapes_stay() -> None:
    """Against torch's own modules."""
    tail = Tail(SPEC)
    parameters = parameters_of(tail)
    maps = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))

    def layer(name: str, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        weight = parameters[f"tail.{name}.weight"]
        made = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            weight.shape[2],
            stride,
            padding=weight.shape[2] // 2,
            groups=groups,
        )
        made.load_state_dict({"weight": weight, "bias": parameters[f"tail.{name}.bias"]})
        return made

    def block(name: str, stride: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(
            layer(f"{name}.expand"),
            nn.ReLU6(),
            layer(f"{name}.depthwise", stride, hidden),
            nn.ReLU6(),
            layer(f"{name}.project"),
        )

    with torch.no_grad():
        first = maps + block("blocks.0", 1, 8)(maps)
        second = block("blocks.1", 2, 12)(first)
        pooled = nn.ReLU6()(layer("last")(second)).mean(dim=(2, 3))
        wanted = nn.functional.normalize(pooled, dim=1)

        torch.testing.assert_close(tail.features(parameters, maps), wanted)


def test_logits_are_ten_times_the_cosine() -> None:
    tail = Tail(SPEC)
    parameters = parameters_of(tail)
    maps = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    features = tail.features(parameters, maps)

    logits = tail.logits({**parameters, TAIL_CLASSES: 3 * features}, maps)

    torch.testing.assert_close(logits.diagonal(), torch.full((2,), 10.0))
    torch.testing.assert_close(logits[0, 1], 10 * features[0] @ features[1])


def test_mixed_logits_weigh_log_probabilities() -> None:
    head, tail = torch.tensor([[1.0, 3.0]]), torch.tensor([[7.0, 2.0]])

    mixed = mixed_logits(head, tail, torch.tensor([1.0, 0.5]))

    wanted = head.log_softmax(1) + 0.5 * tail.log_softmax(1)
    torch.testing.assert_close(mixed, wanted)


def test_maps_are_the_last_numbers() -> None:
    inputs = torch.arange(2 * 103.0).reshape(2, 103, 1, 1)

    maps = split_maps(SPEC, inputs)

    assert maps.shape == (2, 4, 5, 5)
    assert maps[1, 0, 0, 0] == 103 + 3
    assert maps[1, -1, -1, -1] == 205


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tail.last.bias": torch.zeros(6)}, r"tail.last.bias: expected \(7,\), got \(6,\)"),
        ({"tail.more": torch.zeros(1)}, r"tail.more: expected no such parameter, got \(1,\)"),
    ],
)
def test_other_parameters_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    tail = Tail(SPEC)

    with pytest.raises(ValueError, match=message):
        tail.check({**parameters_of(tail), **change})
