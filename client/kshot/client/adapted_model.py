"""A handle on an adapted model that a server keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, Unpack

from kshot.client.errors import AdaptedModelNotFoundError, InputError, KshotError
from kshot.client.inputs import Images
from kshot.client.labels import Label, Labels
from kshot.client.options import AdaptOptions
from kshot.client.results import Description, Prediction, Report, Timing
from kshot.client.values import check_text, shown

if TYPE_CHECKING:
    from kshot.client.client import Client


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """An adapted model on a server, until it expires or is deleted.

    `labels` are the classes as the caller gave them to `adapt`, in the order of `class_names`;
    `report` and `timing` come from `adapt`. All three are None for a model that was looked up. A
    model for a while is a context manager: `with client.adapt(…) as model` deletes it at the end.
    """

    client: Client
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

    def predict(
        self,
        queries: Images,
        *,
        batch_norm_mode: str | None = None,
        return_logits: bool = False,
        reject_below: float | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Classify queries; the labels come back as they were given to `adapt`.

        Those whose known score is below `reject_below` are marked in `none_of_these`.
        """
        return self.client.predict(
            self,
            queries,
            batch_norm_mode=batch_norm_mode,
            return_logits=return_logits,
            reject_below=reject_below,
            timeout=timeout,
        )

    def export(self, path: str | Path, *, batch_norm_mode: str | None = None) -> Path:
        """Write the model as a self-contained ONNX file; the file appears whole or not at all."""
        return self.client.export(self.id, path, batch_norm_mode=batch_norm_mode)

    def renew(
        self,
        *,
        ttl: float | timedelta | None = None,
        expire_at: datetime | None = None,
        etag: str = "",
    ) -> AdaptedModel:
        """Let the model expire after `ttl`, or at `expire_at`; return its new handle."""
        return self.client.renew(self, ttl=ttl, expire_at=expire_at, etag=etag)

    def revise(
        self,
        *,
        add: tuple[Images, Labels] | None = None,
        relabel: Mapping[int, Label] | None = None,
        remove: Iterable[int] = (),
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AdaptedModel:
        """Adapt anew to the changed support set, see `Client.revise`; this model stays as it is."""
        return self.client.revise(
            self, add=add, relabel=relabel, remove=remove, timeout=timeout, **options
        )

    def delete(self) -> None:
        """Delete the model on the server."""
        self.client.delete(self.id)

    def __enter__(self) -> Self:
        """Begin a block that needs the model; it is deleted afterwards."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.delete()
        except AdaptedModelNotFoundError:  # deleted within, or expired
            pass
        except KshotError:
            if error is None:  # else that error tells more
                raise

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AdaptedModel can be neither copied nor pickled: pass its id, and get it from a "
            f"client there, Client({self.client.address!r}).get({self.id!r})"
        )

    def __repr__(self) -> str:
        return f"AdaptedModel({self.id!r}, class_names={list(self.class_names)})"


def own_labels(adapted: AdaptedModel | str) -> Sequence[Label] | None:
    """Return the caller's own labels if the handle knows them."""
    return adapted.labels if isinstance(adapted, AdaptedModel) else None


def known_labels(adapted: AdaptedModel | str) -> dict[str, Label] | None:
    """Return the caller's own labels by the names of their classes, if the handle knows them."""
    labels = own_labels(adapted)
    if labels is None or not isinstance(adapted, AdaptedModel):
        return None
    return dict(zip(adapted.class_names, labels, strict=True))


def check_id(adapted: object) -> str:
    """Return the id of a handle, or the id itself; raise `InputError` for anything else."""
    if isinstance(adapted, AdaptedModel):
        return adapted.id
    if isinstance(adapted, str) and adapted:
        return check_text("adapted_model", adapted)
    raise InputError(f"adapted_model: expected an AdaptedModel or its id, got {shown(adapted)}")
