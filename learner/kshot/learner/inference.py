"""Answers of adapted parameters in the batch-norm modes."""

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode
from kshot.learner.networks.network import Network, Parameters, Statistics, logits_of

IMAGES_AT_ONCE = 1024


def support_statistics(network: Network, parameters: Parameters, support: Tensor) -> Statistics:
    """Freeze each layer's mean and variance from the support sets `(T, n, ...)`."""
    _, statistics = network.features(parameters, support, None)
    return statistics


def transductive_logits(network: Network, parameters: Parameters, queries: Tensor) -> Tensor:
    """Answer `(T, n, ...)` queries normalized by one another's statistics: `(T, n, way)`."""
    logits, _ = logits_of(network, parameters, queries)
    return logits


def support_logits(
    network: Network, parameters: Parameters, queries: Tensor, statistics: Statistics
) -> Tensor:
    """Answer queries with the support set's frozen statistics: each answer is its query's alone."""
    logits, _ = logits_of(network, parameters, queries, statistics)
    return logits


def support_and_query_logits(
    network: Network, parameters: Parameters, queries: Tensor, support: Tensor
) -> Tensor:
    """Answer each query of one task normalized by the support set and itself: `(1, n, way)`.

    The paper's mode without transduction: one forward of the whole support set and the query for
    every query `(1, n, ...)`. The queries take the task axis; the parameters serve them all. A
    network without statistics answers each query by itself anyway: no support set goes through it.
    """
    if not network.statistics_shapes:
        return transductive_logits(network, parameters, queries)
    query_count = queries.shape[1]
    joined = torch.cat(
        [support.expand(query_count, -1, -1, -1, -1), queries.transpose(0, 1)], dim=1
    )  # (n, support_count + 1, channels, height, width)
    logits, _ = logits_of(network, parameters, joined)
    return logits[:, -1].unsqueeze(0)


def query_logits(
    network: Network,
    parameters: Parameters,
    queries: Tensor,
    support: Tensor,
    mode: BatchNormMode,
) -> Tensor:
    """Answer T tasks' queries `(T, n, ...)` in a batch-norm mode: `(T, n, way)`.

    In `support_and_query` queries are answered in parts, so that memory stays bounded. In `stored`
    the network computes no statistics, so every mode would answer alike.
    """
    if mode in (BatchNormMode.TRANSDUCTIVE, BatchNormMode.STORED):
        return transductive_logits(network, parameters, queries)
    if mode is BatchNormMode.SUPPORT:
        statistics = support_statistics(network, parameters, support)
        return support_logits(network, parameters, queries, statistics)
    at_once = max(1, IMAGES_AT_ONCE // (support.shape[1] + 1))
    answers = []
    for task in range(queries.shape[0]):
        one = slice(task, task + 1)
        own = {name: value[one] for name, value in parameters.items()}
        parts = [
            support_and_query_logits(network, own, part, support[one])
            for part in torch.split(queries[one], at_once, dim=1)
        ]
        answers.append(torch.cat(parts, dim=1))
    return torch.cat(answers)
