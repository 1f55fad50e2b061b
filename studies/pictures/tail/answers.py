"""How a tail adapts to tasks, and answers them beside a head, with steps that are given.

What the engine does in one go is done in parts, so that runs share them and all weights of the
tail are measured: each part is the engine's own function.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import TailSpec
from kshot.learner import Tail, derive_seed
from kshot.learner.steps.refinement import RefinementTask, refine
from kshot.learner.steps.tail_weight import WEIGHTS, best_weight, folds, prior_weight
from studies.common.runner import SEED
from studies.pictures.tail.records import FINE_WEIGHTS, TailTask

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """A point of the curve: steps on all examples, and in each fold where there are folds."""

    name: str
    step_count: int
    fold_step_count: int

    @property
    def folded(self) -> bool:
        """Tell whether it is for tasks with two or more examples per class."""
        return self.fold_step_count > 0


PLANS = {
    plan.name: plan
    for plan in (
        Plan("10-steps", 10, 0),
        Plan("20-steps", 20, 0),
        Plan("40-steps", 40, 0),
        Plan("folds-of-6", 20, 6),
        Plan("folds-of-12", 20, 12),
        Plan("folds-of-12-40-steps", 40, 12),
    )
}


@dataclass(frozen=True)
class HeadAnswers:
    """Logits of a head: `(n, way)` of examples that it left out, `(m, way)` of queries."""

    held_out: Tensor
    queries: Tensor


@dataclass(frozen=True)
class TailQuestion:
    """A task for a tail, behind some heads.

    `maps` `(1 + k, n, ...)` are of the originals and k crops of each, `query_maps` of the queries.
    """

    maps: Tensor
    classes: Tensor
    way: int
    query_maps: Tensor
    query_classes: Tensor
    heads: Mapping[str, HeadAnswers]
    crop_seconds: float = 0.0


class TailAnswers:
    """A task's answers by several plans, which share what they have in common."""

    def __init__(self, spec: TailSpec, start: Parameters, question: TailQuestion) -> None:
        self._spec, self._start, self._of = spec, start, question
        self._kept: dict[tuple[str, int], tuple[Any, float]] = {}

    def by(self, plan: Plan) -> Mapping[str, TailTask]:
        """Return what is kept of the task by a plan, behind each of the heads."""
        of = self._of
        (likeness, prior), looked = self._once("likeness", 0, lambda _: self._likeness())
        parameters, adapted = self._once("all", plan.step_count, self._adapted_to_all)
        queries, _ = self._once(
            "queries", plan.step_count, lambda _: self._answers(parameters, of.query_maps)
        )
        held, held_for = None, 0.0
        if plan.folded:
            held, held_for = self._once("held", plan.fold_step_count, self._held_out)
        found = {}
        for name, head in of.heads.items():
            weights, weight = FINE_WEIGHTS, prior
            losses: tuple[float, ...] = ()
            if held is not None:
                left = head.held_out.log_softmax(dim=1)
                weight, weights = best_weight(left, held, of.classes, prior), WEIGHTS
                losses = tuple(round(_loss(left + one * held, of.classes), 3) for one in weights)
            right = partial(self._right, head.queries.log_softmax(dim=1), queries)
            found[name] = TailTask(
                likeness,
                right(0.0),
                weight,
                right(weight),
                tuple(map(right, weights)),
                losses,
                of.crop_seconds + looked + held_for + (adapted if weight else 0.0),
            )
        return found

    def _right(self, head: Tensor, tail: Tensor, weight: float) -> int:
        answers = (head + weight * tail).argmax(dim=1)
        return int((answers == self._of.query_classes).sum())

    def _once(self, what: str, count: int, work: Callable[[int], Any]) -> tuple[Any, float]:
        """Do work of so many steps once; return its result and the processor's seconds."""
        if (what, count) not in self._kept:
            started = time.process_time()
            done = work(count)
            self._kept[what, count] = done, time.process_time() - started
        return self._kept[what, count]

    def _likeness(self) -> tuple[float, float]:
        with torch.no_grad():
            features = Tail(self._spec).features(self._start, self._of.maps[0])
        prior = prior_weight(self._spec, features, self._of.classes)
        bare = replace(self._spec, likeness=0.0, slope=1.0)
        return prior_weight(bare, features, self._of.classes), prior

    def _adapted_to_all(self, step_count: int) -> Parameters:
        every = torch.ones_like(self._of.classes, dtype=torch.bool)
        return self._adapted(every, step_count, SEED)

    def _held_out(self, step_count: int) -> Tensor:
        """Return log-probabilities of each fold, by a tail that adapted to the others."""
        of = self._of
        fold, held = folds(of.classes, of.way), torch.zeros(len(of.classes), of.way)
        for number in range(int(fold.max()) + 1):
            seed = derive_seed(SEED, number + 1)
            adapted = self._adapted(fold != number, step_count, seed)
            held[fold == number] = self._answers(adapted, of.maps[0, fold == number])
        return held

    def _adapted(self, seen: Tensor, step_count: int, seed: int) -> Parameters:
        """Adapt to some examples: without folds, and so that the weight is never 0."""
        of, spec = self._of, replace(self._spec, likeness=0.0, slope=1.0)
        maps, classes = of.maps[:, seen], of.classes[seen]
        unused = torch.zeros(len(classes), of.way)  # the head's logits, which decide the weight
        task = RefinementTask(maps, classes, of.way, unused, step_count, 0, seed)
        steps = refine(Tail(spec), self._start, task)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                found: Parameters = done.value.parameters
                return found

    def _answers(self, parameters: Parameters, maps: Tensor) -> Tensor:
        with torch.no_grad():
            return Tail(self._spec).logits(parameters, maps).log_softmax(dim=1)


def _loss(logits: Tensor, classes: Tensor) -> float:
    return functional.cross_entropy(logits, classes, reduction="sum").item()
