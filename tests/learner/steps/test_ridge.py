"""The head by ridge regression: its solution, its left-out logits, and what it chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kshot.bundle import FeatureBlock, RidgeSettings
from kshot.learner import RidgeFit, ridge_head
from kshot.learner.steps import ridge

SETTINGS = RidgeSettings(
    blocks=(FeatureBlock(3, 1.0), FeatureBlock(4, 2.0)),
    penalty=0.3,
    scale=4.0,
    step_count=0,
    learning_rate=0.15,
    pull=0.3,
)
ONE_BLOCK = replace(SETTINGS, blocks=(FeatureBlock(7, 1.0),))


def draw(way: int, shot: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw features `(way * shot, 7)` in float64, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(way * shot, 7, generator=generator, dtype=torch.float64)
    return features, torch.arange(way).repeat_interleave(shot)


def logits_of(fit: RidgeFit, features: Tensor) -> Tensor:
    """Return the logits of a fit's head."""
    return features @ fit.weight.T + fit.bias


def test_the_head_solves_the_normal_equations() -> None:
    """The gradient of `sum (w x + b - y)^2 + l (|w|^2 + b^2)` at the head is zero."""
    features, classes = draw(way=3, shot=4)

    fit = ridge_head(features, classes, 3, ONE_BLOCK)

    centered = features - features.mean(0)
    centered = centered / centered.square().sum(1).mean().sqrt()
    inputs = torch.cat([centered, torch.ones(12, 1, dtype=torch.float64)], dim=1)
    targets = 2 * torch.eye(3, dtype=torch.float64)[classes] - 1
    normal = inputs.T @ inputs + 0.3 * torch.eye(8, dtype=torch.float64)
    scores = inputs @ torch.linalg.solve(normal, inputs.T @ targets)
    assert torch.allclose(logits_of(fit, features), 4.0 * scores)


def test_the_weight_of_a_block_scales_its_kernel() -> None:
    features, classes = draw(way=3, shot=4)
    light = replace(SETTINGS, blocks=(FeatureBlock(3, 1.0), FeatureBlock(4, 1e-9)))

    fit = ridge_head(features, classes, 3, light)
    alone = ridge_head(features[:, :3], classes, 3, replace(light, blocks=light.blocks[:1]))

    assert torch.allclose(logits_of(fit, features), logits_of(alone, features[:, :3]), atol=1e-6)
    assert fit.block_weights.tolist() == pytest.approx([1.0, 0.0], abs=1e-8)


def test_left_out_logits_are_those_of_a_fit_to_the_others() -> None:
    """The kernel is the same in both: centring and sizes are those of the whole support set."""
    features, classes = draw(way=3, shot=4)

    fit = ridge_head(features, classes, 3, ONE_BLOCK)

    centered = features - features.mean(0)
    kernel = centered @ centered.T / centered.square().sum(1).mean() + 1
    others = torch.arange(12) != 5
    targets = 2 * torch.eye(3, dtype=torch.float64)[classes] - 1
    balance = torch.ones(11, dtype=torch.float64)
    penalized = kernel[others][:, others] + 0.3 * torch.diag(balance)
    left_out = kernel[5, others] @ torch.linalg.solve(penalized, targets[others])
    assert torch.allclose(fit.held_out_logits[5], 4.0 * left_out)


def test_the_block_that_tells_classes_apart_gains_weight() -> None:
    features, classes = draw(way=4, shot=5)
    features[:, :3] = torch.eye(4, dtype=torch.float64)[classes][:, :3] * 3 + features[:, :3] * 0.1

    before = ridge_head(features, classes, 4, SETTINGS)
    after = ridge_head(features, classes, 4, replace(SETTINGS, step_count=30))

    assert after.block_weights[0] > before.block_weights[0] + 0.1
    losses = [
        torch.nn.functional.cross_entropy(fit.held_out_logits, classes).item()
        for fit in (before, after)
    ]
    assert losses[1] < losses[0]


def test_one_example_of_each_class_leaves_the_settings_as_they_are() -> None:
    features, classes = draw(way=4, shot=1)

    fit = ridge_head(features, classes, 4, replace(SETTINGS, step_count=30))

    assert fit.block_weights.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert logits_of(fit, features).argmax(1).tolist() == [0, 1, 2, 3]


def test_classes_count_alike_whatever_their_number_of_examples() -> None:
    """Ten copies of a class's only example are worth one."""
    features, classes = draw(way=2, shot=1)
    copies = torch.cat([features[:1].repeat(10, 1), features[1:]])
    copied = torch.tensor([0] * 10 + [1])

    once = ridge_head(features, classes, 2, ONE_BLOCK)
    often = ridge_head(copies, copied, 2, ONE_BLOCK)

    assert torch.allclose(logits_of(often, copies[-1:]), logits_of(once, features[1:]), rtol=0.2)
    balanced = logits_of(often, features).softmax(1).diagonal()
    assert balanced[0].item() == pytest.approx(balanced[1].item(), abs=0.02)


def test_alike_features_give_finite_logits() -> None:
    features, classes = torch.ones(6, 7), torch.arange(3).repeat(2)

    fit = ridge_head(features, classes, 3, replace(SETTINGS, step_count=5))

    assert torch.isfinite(logits_of(fit, features)).all()
    assert torch.isfinite(fit.held_out_logits).all()


def test_many_examples_are_chosen_from_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = torch.tensor([0] * 50 + [1] * 3 + [2] + [3] * 10)
    monkeypatch.setattr(ridge, "MAX_CHOOSING_COUNT", 12)

    rows = ridge._choosing_rows(classes)

    assert torch.bincount(classes[rows]).tolist() == [5, 3, 0, 4]
