"""The words that the wire, the manifest, the learner and the commands share."""

from __future__ import annotations

from enum import StrEnum


class BatchNormMode(StrEnum):
    """Whose statistics normalise a query: the queries', the support set's with it, or frozen."""

    TRANSDUCTIVE = "transductive"
    SUPPORT_AND_QUERY = "support_and_query"
    SUPPORT = "support"


class Preconditioner(StrEnum):
    """What divides an inner gradient: Adam's second moment carried, frozen or fresh, or nothing."""

    CARRIED = "carried"
    FROZEN = "frozen"
    FRESH = "fresh"
    SGD = "sgd"


class Head(StrEnum):
    """Where the rows of the last layer start: trained rows, class means, or zero."""

    TRAINED = "trained"
    PROTOTYPE = "prototype"
    ZERO = "zero"


class Scope(StrEnum):
    """Which parameters the inner loop changes."""

    ALL = "all"
    HEAD = "head"
