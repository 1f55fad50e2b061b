"""The head by ridge regression: its solution, its left-out logits, and its blocks' weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kshot.bundle import RidgeRule, RidgeSettings
from kshot.learner import RidgeFit, ridge_head

RULE = RidgeRule(max_shot=5, penalty=0.3, evidence=0.5, scale=4.0, weights=(1.0, 2.0))
SETTINGS = RidgeSettings((3, 4), (RULE,))
ONE_BLOCK = RidgeSettings((7,), (replace(RULE, weights=(1.0,)),))


def draw(way: int, shot: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw features `(way * shot, 7)` in float64, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(way * shot, 7, generator=generator, dtype=torch.float64)
    return features, torch.arange(way).repeat_interleave(shot)


def logits_of(fit: RidgeFit, features: Tensor) -> Tensor:
    """Return the logits of a fit's head."""
    return features @ fit.weight.T + fit.bias


def with_rule(settings: RidgeSettings, **changes: object) -> RidgeSettings:
    """Return settings whose only rule is changed."""
    return replace(settings, rules=(replace(settings.rules[0], **changes),))  # type: ignore[arg-type]


def test_the_head_solves_the_normal_equations() -> None:
    """Where the gradient of `sum (w x + b - y)^2 + l (|w|^2 + n b^2)` is zero, x scaled."""
    features, classes = draw(way=3, shot=4)

    fit = ridge_head(features, classes, 3, ONE_BLOCK)

    centered = features - features.mean(0)
    centered = centered / centered.square().sum(1).mean().sqrt()
    inputs = torch.cat([centered, torch.ones(12, 1, dtype=torch.float64) / 12**0.5], dim=1)
    targets = 2 * torch.eye(3, dtype=torch.float64)[classes] - 1
    normal = inputs.T @ inputs + 0.3 * torch.eye(8, dtype=torch.float64)
    scores = inputs @ torch.linalg.solve(normal, inputs.T @ targets)
    assert torch.allclose(logits_of(fit, features), 4.0 * scores)


def test_left_out_logits_are_those_of_a_fit_to_the_others() -> None:
    """The kernel is the same in both: centring and sizes are those of the whole support set."""
    features, classes = draw(way=3, shot=4)

    fit = ridge_head(features, classes, 3, ONE_BLOCK)

    centered = features - features.mean(0)
    kernel = centered @ centered.T / centered.square().sum(1).mean() + 1 / 12
    others = torch.arange(12) != 5
    targets = 2 * torch.eye(3, dtype=torch.float64)[classes] - 1
    penalized = kernel[others][:, others] + 0.3 * torch.eye(11, dtype=torch.float64)
    left_out = kernel[5, others] @ torch.linalg.solve(penalized, targets[others])
    assert torch.allclose(fit.held_out_logits[5], 4.0 * left_out)


def test_blocks_are_fitted_apart_and_their_scores_added() -> None:
    features, classes = draw(way=3, shot=4)
    parts = features.split([3, 4], dim=1)

    fit = ridge_head(features, classes, 3, SETTINGS)
    alone = [
        ridge_head(part, classes, 3, with_rule(replace(ONE_BLOCK, block_sizes=(part.shape[1],))))
        for part in parts
    ]

    expected = sum(
        weight * logits_of(each, part)
        for weight, each, part in zip(fit.block_weights, alone, parts, strict=True)
    )
    assert torch.allclose(logits_of(fit, features), expected)
    assert fit.block_weights.sum().item() == pytest.approx(1.0)


def test_the_block_that_tells_classes_apart_gains_weight() -> None:
    features, classes = draw(way=4, shot=5)
    features[:, :3] = torch.eye(4, dtype=torch.float64)[classes][:, :3] * 3 + features[:, :3] * 0.1

    without = ridge_head(features, classes, 4, with_rule(SETTINGS, evidence=0.0))
    fit = ridge_head(features, classes, 4, SETTINGS)

    assert without.block_weights.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert fit.block_weights[0] > 0.8
    losses = [
        torch.nn.functional.cross_entropy(each.held_out_logits, classes) for each in (without, fit)
    ]
    assert losses[1] < losses[0]


def test_one_example_of_each_class_is_no_evidence() -> None:
    features, classes = draw(way=4, shot=1)

    fit = ridge_head(features, classes, 4, SETTINGS)

    assert fit.block_weights.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert logits_of(fit, features).argmax(1).tolist() == [0, 1, 2, 3]


def test_classes_count_alike_whatever_their_number_of_examples() -> None:
    """Copies of a class's only example do not move the boundary towards the other."""
    features, _ = draw(way=2, shot=1)
    copies = torch.cat([features[:1].repeat(10, 1), features[1:]])
    copied = torch.tensor([0] * 10 + [1])

    fit = ridge_head(copies, copied, 2, ONE_BLOCK)

    one, other = logits_of(fit, features).softmax(1).diagonal().tolist()
    assert one == pytest.approx(other, abs=0.02)


def test_the_rule_goes_by_examples_per_class() -> None:
    features, classes = draw(way=3, shot=4)
    rules = (replace(RULE, max_shot=1, scale=9.0), RULE)

    few, many = (
        ridge_head(features[rows], classes[rows], 3, replace(SETTINGS, rules=rules))
        for rows in ([0, 4, 8], list(range(12)))
    )

    strength = with_rule(SETTINGS, scale=9.0)
    same = ridge_head(features[[0, 4, 8]], classes[[0, 4, 8]], 3, strength)
    assert torch.equal(few.weight, same.weight)
    assert torch.equal(many.weight, ridge_head(features, classes, 3, SETTINGS).weight)


def test_alike_features_give_finite_logits() -> None:
    features, classes = torch.ones(6, 7), torch.arange(3).repeat(2)

    fit = ridge_head(features, classes, 3, SETTINGS)

    assert torch.isfinite(logits_of(fit, features)).all()
    assert torch.isfinite(fit.held_out_logits).all()
