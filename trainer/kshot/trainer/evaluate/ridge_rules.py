"""The rules of a head by ridge regression, chosen on tasks: penalty, weights of blocks, scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import RidgeRule

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

PENALTIES, SCALES = (0.03, 0.1, 0.3, 1.0), (1.0, 2.0, 4.0, 8.0)
STEPS, LEARNING_RATE, QUERIES_AT_ONCE = 80, 0.15, 15
# How strongly weights are pulled towards equal ones, and towards those of a rule to start from: 0.1
# cost 0.7 points at most on held-out classes of six sets of pictures, 0.01 cost up to 1.0.
PULL, START_PULL = 0.01, 0.1
# A first guess without a rule to start from: logarithms of evidence and scale.
EVIDENCE, SCALE = 0.0, 1.5


class Task(Protocol):
    """Rows of support and query pictures, class by class, with labels 0..way-1."""

    @property
    def support(self) -> Rows:
        """Rows of the support set `(n,)`, equally many of each class."""

    @property
    def support_labels(self) -> Rows:
        """Labels of the support set `(n,)`."""

    @property
    def queries(self) -> Rows:
        """Rows of the queries `(m,)`."""

    @property
    def query_labels(self) -> Rows:
        """Labels of the queries `(m,)`, the same in every task."""


@dataclass(frozen=True)
class Scores:
    """The scores of T tasks of a set, by each of P penalties and B blocks alone.

    Of m queries `(P, B, T, m, way)`, whose labels are `(m,)` in every task; the losses of left-out
    examples `(P, B, T)`.
    """

    queries: Tensor
    labels: Tensor
    losses: Tensor


def solve(blocks: Sequence[npt.NDArray[np.floating]], tasks: Sequence[Task]) -> Scores:
    """Solve tasks by each block of features `(pictures, size)` and each penalty alone."""
    queries, losses = [], []
    for block in blocks:
        for task in tasks:
            scores, held_out = _ridge(block, task)
            queries.append(scores)
            losses.append(_losses(held_out, task))
    way = int(tasks[0].support_labels.max()) + 1
    shape = len(blocks), len(tasks), len(PENALTIES)
    return Scores(
        torch.tensor(np.array(queries)).float().reshape(*shape, -1, way).permute(2, 0, 1, 3, 4),
        torch.from_numpy(tasks[0].query_labels),
        torch.tensor(np.array(losses)).float().reshape(shape).permute(2, 0, 1),
    )


def _ridge(block: npt.NDArray[np.floating], task: Task) -> tuple[Floats, Floats]:
    """Return scores of queries `(P, m, way)` and left-out ones `(P, n, way)`, as `ridge_head` does.

    From products of features, by one decomposition for all penalties.
    """
    support = block[task.support].astype(np.float64)
    own, cross = support @ support.T, block[task.queries].astype(np.float64) @ support.T
    means, count = own.mean(axis=0), len(own)
    centered = own - means - means[:, None] + means.mean()
    size = max(np.trace(centered) / count, 1e-12)
    values, vectors = np.linalg.eigh(centered / size + 1 / count)
    asked = (cross - cross.mean(axis=1, keepdims=True) - means + means.mean()) / size + 1 / count
    targets = 2 * np.eye(task.support_labels.max() + 1)[task.support_labels] - 1
    projected = vectors.T @ targets
    scores, held_out = [], []
    for penalty in PENALTIES:
        coefficients = vectors @ (projected / (values + penalty)[:, None])
        diagonal = (vectors**2 / (values + penalty)).sum(axis=1)
        scores.append(asked @ coefficients)
        held_out.append(targets - coefficients / diagonal[:, None])
    return np.array(scores), np.array(held_out)


def _losses(held_out: Floats, task: Task) -> Floats:
    logits = np.array(SCALES)[:, None, None, None] * held_out  # (scales, P, n, way)
    logits -= logits.max(axis=-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    own = logs[:, :, np.arange(len(task.support_labels)), task.support_labels]
    losses: Floats = -own.mean(axis=-1).max(axis=0)
    return losses


def choose_rule(sets: Sequence[Scores], shot: int, start: RidgeRule | None = None) -> RidgeRule:
    """Choose the rule with the least cross-entropy of queries, where each set counts alike.

    The weights are pulled towards those of `start`, or towards equal ones.
    """
    found = [_choose(sets, shot, index, start) for index in range(len(PENALTIES))]
    return min(found, key=lambda pair: pair[0])[1]


def _choose(
    sets: Sequence[Scores], shot: int, penalty: int, start: RidgeRule | None
) -> tuple[float, RidgeRule]:
    """Choose weights, evidence and scale at one penalty by Adam; return the loss and the rule."""
    generator = torch.Generator().manual_seed(0)
    first, evidence_log, scale_log = torch.zeros(sets[0].losses.shape[1]), EVIDENCE, SCALE
    pull = PULL
    if start is not None:
        first, pull = torch.tensor(start.weights).log(), START_PULL
        scale_log = float(np.log(start.scale))
        evidence_log = float(np.log(start.evidence)) if start.evidence else EVIDENCE
    prior = first.clone().requires_grad_()
    evidence, scale = (
        torch.tensor(value, requires_grad=True) for value in (evidence_log, scale_log)
    )
    leaves = [prior, evidence, scale]
    optimizer = torch.optim.Adam(leaves, LEARNING_RATE)
    for _ in range(STEPS):
        asked = torch.randperm(len(sets[0].labels), generator=generator)[:QUERIES_AT_ONCE]
        loss = _mean_loss(sets, shot, penalty, leaves, asked)
        loss = loss + pull * (prior - first).square().mean()
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        optimizer.step()
    with torch.no_grad():
        everything = torch.arange(len(sets[0].labels))
        loss = _mean_loss(sets, shot, penalty, leaves, everything)
    rule = RidgeRule(
        shot,
        PENALTIES[penalty],
        0.0 if shot == 1 else round(evidence.exp().item(), 4),
        round(scale.exp().item(), 4),
        tuple(max(round(weight, 6), 1e-6) for weight in prior.softmax(0).tolist()),
    )
    return loss.item(), rule


def _mean_loss(
    sets: Sequence[Scores], shot: int, penalty: int, leaves: Sequence[Tensor], asked: Tensor
) -> Tensor:
    prior, evidence, scale = leaves
    strength = evidence.exp() * (0 if shot == 1 else shot)
    losses = []
    for each in sets:
        logits = _logits(each, penalty, prior, strength, scale.exp(), asked)
        labels = each.labels[asked].repeat(len(logits))
        losses.append(functional.cross_entropy(logits.flatten(0, 1), labels))
    return torch.stack(losses).mean()


def _logits(
    scores: Scores, penalty: int, prior: Tensor, strength: Tensor, scale: Tensor, asked: Tensor
) -> Tensor:
    """Return logits `(T, m, way)` of the weighted blocks, as `ridge_head` weighs them."""
    weights = (prior.unsqueeze(1) - strength * scores.losses[penalty]).softmax(0)  # (B, T)
    return scale * torch.einsum("bt,btmc->tmc", weights, scores.queries[penalty][:, :, asked])


def logits_of(scores: Scores, rule: RidgeRule, shot: int) -> Tensor:
    """Return logits `(T, m, way)` by a rule whose penalty is one of `PENALTIES`."""
    prior, strength = torch.tensor(rule.weights).log(), torch.tensor(rule.evidence * shot)
    everything = torch.arange(len(scores.labels))
    penalty = PENALTIES.index(rule.penalty)
    return _logits(scores, penalty, prior, strength, torch.tensor(rule.scale), everything)
