"""Baselines of adaptation: the head alone, no step, and no head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import BatchNormMode
from kshot.learner import Initialization, Parameters
from kshot.trainer.datasets.device_images import DevicePixels, to_device
from kshot.trainer.tasks.episodes import EpisodeBatch

IMAGES_AT_ONCE = 1024


class Baseline(StrEnum):
    """Labels of similar examples without a head (NIL), the head alone (ANIL), class means, no step.

    NIL and ANIL are those of Raghu et al. 2020.
    """

    NIL = "nil"
    ANIL = "anil"
    PROTOTYPE = "prototype"


@dataclass(frozen=True)
class NilSolver:
    """Answers by the cosine similarity of a query's features to those of the support examples.

    `p(c | q) = sum of a_i over the examples i of class c`, with `a = softmax_i cos(f(q), f(s_i))`:
    the labels of the support set weighted as in matching networks (Vinyals et al. 2016), by the
    features f of the initialization (NIL, Raghu et al. 2020, section 5). The softmax has no
    temperature, so the probabilities are close to each other.
    """

    initialization: Initialization
    pixels: DevicePixels
    way: int
    step_count: int = 0

    def trajectory(
        self,
        episodes: EpisodeBatch,  # noqa: ARG002 -- nothing is adapted
        first_task: int,  # noqa: ARG002 -- and nothing drawn
        step_counts: Sequence[int],
    ) -> Iterator[Parameters]:
        """Yield the initialization for each number of steps, with T = 1."""
        parameters = self.initialization.parameters
        for _ in step_counts:
            yield {name: value.unsqueeze(0) for name, value in parameters.items()}

    def answer(self, parameters: Parameters, episodes: EpisodeBatch, mode: BatchNormMode) -> Tensor:
        """Answer the queries of T tasks: probabilities, float32 `(T, queries, way)`."""
        support, queries = self.pixels.take(episodes.support), self.pixels.take(episodes.queries)
        classes = to_device(episodes.support_classes, support.device)
        with torch.no_grad():
            similarities = self._similarities(parameters, support, queries, mode)
        members = functional.one_hot(classes, self.way).to(similarities.dtype)  # (T, n, way)
        return (torch.softmax(similarities, dim=-1) @ members).cpu()

    def _similarities(
        self, parameters: Parameters, support: Tensor, queries: Tensor, mode: BatchNormMode
    ) -> Tensor:
        """Compare queries with support examples: cosines `(T, queries, n)`.

        In `support_and_query`, each query is normalized together with all support examples.
        """
        network = self.initialization.network
        if mode is not BatchNormMode.SUPPORT_AND_QUERY:
            known, statistics = network.features(parameters, support, None)
            given = statistics if mode is BatchNormMode.SUPPORT else None
            asked, _ = network.features(parameters, queries, given)
            return _cosines(asked, known)
        at_once = max(1, IMAGES_AT_ONCE // (support.shape[1] + 1))
        cosines = []
        for known, asked in zip(support, queries, strict=True):
            of_task = []
            for part in torch.split(asked, at_once):
                # (queries, n + 1, channels, height, width): the query is the last of each
                repeated = known.expand(len(part), *known.shape)
                joined = torch.cat([repeated, part.unsqueeze(1)], dim=1)
                features, _ = network.features(parameters, joined, None)
                of_task.append(_cosines(features[:, -1:], features[:, :-1]).squeeze(1))
            cosines.append(torch.cat(of_task))
        return torch.stack(cosines)


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """Compare `(T, a, features)` with `(T, b, features)`: `(T, a, b)`."""
    return functional.normalize(one, dim=-1) @ functional.normalize(other, dim=-1).transpose(1, 2)
