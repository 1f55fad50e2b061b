"""Rules of a head by ridge regression follow from tasks."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from kshot.bundle import RidgeRule, RidgeSettings
from kshot.learner import ridge_head
from kshot.trainer.evaluate.ridge_rules import (
    PENALTIES,
    SCALES,
    Rows,
    choose_rule,
    logits_of,
    solve,
)

WAY, SHOT, QUERIES = 3, 2, 4
EQUAL = RidgeRule(SHOT, PENALTIES[1], 1.0, 4.0, (0.5, 0.5))


@dataclass(frozen=True)
class Drawn:
    """Rows of one task."""

    support: Rows
    support_labels: Rows
    queries: Rows
    query_labels: Rows


def tasks(count: int) -> list[Drawn]:
    random, found = np.random.default_rng(1), []
    for _ in range(count):
        rows = [
            label * 10 + random.permutation(10)[: SHOT + QUERIES]
            for label in random.permutation(6)[:WAY]
        ]
        found.append(
            Drawn(
                np.concatenate([each[:SHOT] for each in rows]),
                np.repeat(np.arange(WAY), SHOT),
                np.concatenate([each[SHOT:] for each in rows]),
                np.repeat(np.arange(WAY), QUERIES),
            )
        )
    return found


@pytest.fixture(scope="module")
def blocks() -> list[np.ndarray[tuple[int, int], np.dtype[np.float16]]]:
    """Features of 6 classes of 10 pictures: the first block knows them, the second does not."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(6, 8)).repeat(10, axis=0)
    knowing = centers + 0.4 * random.normal(size=centers.shape)
    return [knowing.astype(np.float16), random.normal(size=(60, 5)).astype(np.float16)]


def test_scores_of_a_block_are_those_of_its_head() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 6))
    labels = np.arange(5).repeat(3)
    task = Drawn(np.arange(15), labels, np.arange(15, 40), np.arange(5).repeat(5))

    scores = solve([features, features[:, :2]], [task])

    for block, columns in enumerate((6, 2)):
        known = torch.from_numpy(features[:, :columns])
        for index, penalty in enumerate(PENALTIES):
            rule = RidgeRule(3, penalty, 0.0, 1.0, (1.0,))
            settings = RidgeSettings((columns,), (rule,))
            fit = ridge_head(known[:15], torch.from_numpy(labels), 5, settings)
            wanted = (known[15:] @ fit.weight.T + fit.bias).float()
            torch.testing.assert_close(scores.queries[index, block, 0], wanted)
            told = torch.from_numpy(labels)
            losses = [cross_entropy(scale * fit.held_out_logits, told) for scale in SCALES]
            expected = torch.stack(losses).min().item()
            assert scores.losses[index, block, 0].item() == pytest.approx(expected, rel=1e-5)


def test_weighted_scores_are_those_of_the_head(
    blocks: list[np.ndarray[tuple[int, int], np.dtype[np.float16]]],
) -> None:
    (task,) = drawn = tasks(1)
    joined = torch.from_numpy(np.concatenate(blocks, axis=1).astype(np.float64))
    sizes = tuple(block.shape[1] for block in blocks)
    fit = ridge_head(
        joined[task.support],
        torch.from_numpy(task.support_labels),
        WAY,
        RidgeSettings(sizes, (EQUAL,)),
    )

    logits = logits_of(solve(blocks, drawn), EQUAL, SHOT)[0]

    wanted = joined[task.queries] @ fit.weight.T + fit.bias
    np.testing.assert_allclose(logits.numpy(), wanted.numpy(), atol=1e-4)


def test_the_block_that_knows_the_classes_gains_weight(
    blocks: list[np.ndarray[tuple[int, int], np.dtype[np.float16]]],
) -> None:
    """Without evidence, as with one example per class; from a rule the weights move less."""
    scores = solve(blocks, tasks(20))

    free, started = choose_rule([scores], 1), choose_rule([scores], 1, EQUAL)

    assert free.evidence == started.evidence == 0
    assert free.weights[0] > started.weights[0] > 0.6
    assert choose_rule([scores], 1, EQUAL) == started
    assert choose_rule([scores], SHOT, EQUAL).max_shot == SHOT
