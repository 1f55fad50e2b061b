"""The weight of a tail beside the head: by likeness, and by left-out examples."""

import pytest
import torch

from kshot.bundle import TailBlock, TailSpec
from kshot.learner.steps.tail_weight import PULL, WEIGHTS, best_weight, folds, prior_weight

SPEC = TailSpec(
    map_shape=(8, 4, 4),
    blocks=(TailBlock(2, 8, 1),),
    feature_count=2,
    learning_rate=5e-4,
    likeness=0.5,
    slope=3.0,
)


def test_pictures_of_different_classes_that_look_alike_give_weight() -> None:
    """Cosines within a class do not count: of the others, two are 0.6 and two are 1."""
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    classes = torch.tensor([0, 0, 1])

    assert prior_weight(SPEC, features, classes) == pytest.approx(3 * (0.8 - 0.5))
    assert prior_weight(SPEC, torch.eye(2), torch.tensor([0, 1])) == 0


def test_the_weight_is_that_of_the_least_loss_and_pull() -> None:
    """The head is undecided; the tail is right in all four examples, or in two of them."""
    classes = torch.tensor([0, 1, 0, 1])
    head = torch.full((4, 2), 0.5).log()
    tail = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]]).log()
    costs = [
        -4 * torch.log_softmax(head[0] + weight * tail[0], 0)[0].item() + PULL * abs(weight - 0.2)
        for weight in WEIGHTS
    ]

    chosen = best_weight(head, tail, classes, prior=0.2)

    assert chosen == WEIGHTS[costs.index(min(costs))] > 0.2
    assert best_weight(head, tail, classes, prior=3.0) == 3.0
    assert best_weight(head, tail, torch.tensor([0, 1, 1, 0]), prior=0.0) == 0.0


def test_much_evidence_moves_the_weight_from_the_prior() -> None:
    classes = torch.arange(2).repeat(20)
    head = torch.full((40, 2), 0.5).log()
    tail = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log().repeat(20, 1)

    assert best_weight(head, tail, classes, prior=0.0) > 1
    assert best_weight(head, tail, 1 - classes, prior=2.0) == 0.0


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2, 0, 0]),
        ([0, 0, 0, 1, 1], [0, 1, 0, 0, 1]),
        ([0, 1, 1], [0, 0, 0]),
    ],
)
def test_each_class_is_in_each_fold(classes: list[int], expected: list[int]) -> None:
    assert folds(torch.tensor(classes), 2).tolist() == expected
