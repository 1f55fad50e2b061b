"""First-order MAML's gradient on queries that are answered as the server answers them."""

from collections.abc import Callable

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Head
from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.network import Network, Parameters, Statistics, logits_of
from kshot.learner.steps.head import prototype_head
from kshot.learner.steps.task_losses import task_losses

QueryGradient = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(initialization, displacement, support, support classes, queries, query classes) -> gradient and
losses.

Initialization, displacement and gradient `(T, P)`; support `(T, n, channels, height, width)`,
its classes int64 `(T, n)`; queries and theirs alike; losses `(T,)`. The displacement is what
the inner steps added.
"""


def build_query_gradient(
    network: Network,
    layout: ParameterLayout,
    head: Head,
    mode: BatchNormMode,
    *,
    displaced: bool,
) -> QueryGradient:
    """Build the function of the outer gradient `d L(phi_1(theta) + D) / d theta`.

    `L` is the queries' mean cross-entropy in the batch-norm mode, `support` or
    `transductive`, `phi_1` the start of the inner loop, and D its displacement, a constant:
    that is what makes it first-order (Finn et al. 2017, section 5.2). With head `trained` phi_1
    is theta, and this FOMAML's gradient. With `prototype` the head of phi_1 is made from the
    support set's features, and the gradient goes through it into the body (Triantafillou et al.
    2020, section 3); theta's own head takes no part. Without `displaced` there were no steps: D
    is not looked at, and the support set goes through the network once; what is left are
    prototypical networks (Snell et al. 2017). The gradient goes through batch statistics too.

    Raises `ValueError` for another head or mode.
    """
    if head is Head.ZERO or mode is BatchNormMode.SUPPORT_AND_QUERY:
        raise ValueError(
            "expected head trained or prototype and batch-norm mode support or transductive, got "
            f"{head} and {mode}"
        )
    way = layout.shapes["head.bias"][0]

    def losses_of(
        initialization: Tensor,
        displacement: Tensor,
        support: Tensor,
        support_classes: Tensor,
        queries: Tensor,
        query_classes: Tensor,
    ) -> Tensor:
        parameters: Parameters = layout.split(initialization)
        statistics: Statistics | None = None
        if head is Head.PROTOTYPE:
            features, statistics = network.features(parameters, support, None)
            weight, bias = prototype_head(features, support_classes, way)
            parameters = {**parameters, "head.weight": weight, "head.bias": bias}
        if displaced:
            moved = layout.split(displacement)
            parameters = {name: value + moved[name] for name, value in parameters.items()}
        if mode is BatchNormMode.TRANSDUCTIVE:
            statistics = None
        elif displaced or statistics is None:
            _, statistics = network.features(parameters, support, None)
        logits, _ = logits_of(network, parameters, queries, statistics)
        all_ways = torch.ones(len(logits), way, dtype=torch.bool, device=logits.device)
        return task_losses(logits, query_classes, all_ways)

    def query_gradient(
        initialization: Tensor,
        displacement: Tensor,
        support: Tensor,
        support_classes: Tensor,
        queries: Tensor,
        query_classes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        leaf = initialization.detach().clone().requires_grad_()
        with torch.enable_grad():
            losses = losses_of(leaf, displacement, support, support_classes, queries, query_classes)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return gradient, losses.detach()

    return query_gradient
