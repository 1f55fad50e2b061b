"""An adapted model as its server and its maker know it, without the client that reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kshot.client.errors import InputError
from kshot.client.values import check_text, shown

if TYPE_CHECKING:
    from datetime import datetime

    from kshot.client.labels import Label
    from kshot.client.results import Description, Report, Timing


@dataclass(frozen=True, eq=False)
class KeptModel:
    """What a handle on an adapted model knows.

    `labels` are the classes as the caller gave them to `adapt`, in the order of `class_names`;
    `report` and `timing` come from `adapt`. All three are None for a model that was looked up.
    """

    description: Description
    labels: tuple[Label, ...] | None = None
    report: Report | None = None
    timing: Timing | None = None

    @property
    def id(self) -> str:
        """The id, by which any client of the server finds the model again."""
        return self.description.id

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities' columns."""
        return self.description.class_names

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the adapted parameters."""
        return self.description.weights_digest

    @property
    def expire_time(self) -> datetime | None:
        """When the server drops the model, in UTC."""
        return self.description.expire_time

    @property
    def step_count(self) -> int:
        """The number of inner steps."""
        return self.description.step_count

    @property
    def support_accuracy(self) -> float:
        """The accuracy on its own support set: 0..1."""
        return self.description.support_accuracy

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, class_names={list(self.class_names)})"


def own_labels(adapted: KeptModel | str) -> Sequence[Label] | None:
    """Return the caller's own labels if the handle knows them."""
    return adapted.labels if isinstance(adapted, KeptModel) else None


def known_labels(adapted: KeptModel | str) -> dict[str, Label] | None:
    """Return the caller's own labels by the names of their classes, if the handle knows them."""
    labels = own_labels(adapted)
    if labels is None or not isinstance(adapted, KeptModel):
        return None
    return dict(zip(adapted.class_names, labels, strict=True))


def check_id(adapted: object) -> str:
    """Return the id of a handle, or the id itself; raise `InputError` for anything else."""
    if isinstance(adapted, KeptModel):
        return adapted.id
    if isinstance(adapted, str) and adapted:
        return check_text("adapted_model", adapted)
    raise InputError(f"adapted_model: expected an AdaptedModel or its id, got {shown(adapted)}")
