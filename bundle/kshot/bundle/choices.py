"""The choices that the wire, the manifest, the learner and the commands share."""

from __future__ import annotations

from enum import StrEnum


class BatchNormMode(StrEnum):
    """The statistics that normalize a query: of queries, support and query, or support.

    `stored` computes none: the network's own statistics are part of its weights.
    """

    TRANSDUCTIVE = "transductive"
    SUPPORT_AND_QUERY = "support_and_query"
    SUPPORT = "support"
    STORED = "stored"


COMPUTED_MODES = (
    BatchNormMode.TRANSDUCTIVE,
    BatchNormMode.SUPPORT_AND_QUERY,
    BatchNormMode.SUPPORT,
)
"""The modes that compute statistics from images, as all networks with batch norm do."""


class Preconditioner(StrEnum):
    """The divisor of an inner gradient: Adam's second moment carried, frozen or fresh, or none."""

    CARRIED = "carried"
    FROZEN = "frozen"
    FRESH = "fresh"
    SGD = "sgd"


class Head(StrEnum):
    """The initial rows of the last layer: trained, class means, zero, or ridge regression."""

    TRAINED = "trained"
    PROTOTYPE = "prototype"
    ZERO = "zero"
    RIDGE = "ridge"

    @property
    def from_support(self) -> bool:
        """Tell whether the rows are made from the support set."""
        return self in (Head.PROTOTYPE, Head.RIDGE)


class Scope(StrEnum):
    """The parameters that adapt: all, those of the head, or in time what the support set gains by.

    With `auto` the inner loop changes the head alone, and the tail of a bundle that has one adapts
    behind it.
    """

    ALL = "all"
    HEAD = "head"
    AUTO = "auto"

    @property
    def of_steps(self) -> Scope:
        """Return the scope of inner steps: with `auto`, `head`."""
        return Scope.HEAD if self is Scope.AUTO else self
