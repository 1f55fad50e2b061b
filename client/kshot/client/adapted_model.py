"""A handle on an adapted model that a server keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, Self

from kshot.client.errors import AdaptedModelNotFoundError, KshotError
from kshot.client.kept_model import KeptModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, timedelta
    from pathlib import Path
    from types import TracebackType
    from typing import Unpack

    from kshot.client.client import Client
    from kshot.client.inputs import Images
    from kshot.client.labels import Label, Labels
    from kshot.client.options import AdaptOptions
    from kshot.client.results import Prediction


@dataclass(frozen=True, eq=False, repr=False)
class AdaptedModel(KeptModel):
    """An adapted model on a server, until it expires or is deleted.

    A model for a while is a context manager: `with client.adapt(…) as model` deletes it at the end.
    """

    client: Client = field(kw_only=True)

    @classmethod
    def of(cls, client: Client, kept: KeptModel) -> Self:
        """Return a handle by which a client reaches a kept model."""
        return cls(kept.description, kept.labels, kept.report, kept.timing, client=client)

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
