"""A handle for event loops on an adapted model that a server keeps."""

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

    from kshot.client.aio.client import AsyncClient
    from kshot.client.aio.model_call import ModelCall
    from kshot.client.inputs import Images
    from kshot.client.labels import Label, Labels
    from kshot.client.options import AdaptOptions
    from kshot.client.results import Prediction


@dataclass(frozen=True, eq=False, repr=False)
class AsyncAdaptedModel(KeptModel):
    """An adapted model on a server, as `AdaptedModel`, whose calls are awaited.

    `async with client.adapt(…) as model` deletes it at the end.
    """

    client: AsyncClient = field(kw_only=True)

    @classmethod
    def of(cls, client: AsyncClient, kept: KeptModel) -> Self:
        """Return a handle by which a client reaches a kept model."""
        return cls(kept.description, kept.labels, kept.report, kept.timing, client=client)

    async def predict(
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
        return await self.client.predict(
            self,
            queries,
            batch_norm_mode=batch_norm_mode,
            return_logits=return_logits,
            reject_below=reject_below,
            timeout=timeout,
        )

    async def export(self, path: str | Path, *, batch_norm_mode: str | None = None) -> Path:
        """Write the model as a self-contained ONNX file; the file appears whole or not at all."""
        return await self.client.export(self.id, path, batch_norm_mode=batch_norm_mode)

    async def renew(
        self,
        *,
        ttl: float | timedelta | None = None,
        expire_at: datetime | None = None,
        etag: str = "",
    ) -> AsyncAdaptedModel:
        """Let the model expire after `ttl`, or at `expire_at`; return its new handle."""
        return await self.client.renew(self, ttl=ttl, expire_at=expire_at, etag=etag)

    def revise(
        self,
        *,
        add: tuple[Images, Labels] | None = None,
        relabel: Mapping[int, Label] | None = None,
        remove: Iterable[int] = (),
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> ModelCall:
        """Adapt anew to the changed support set, see `Client.revise`; this one stays as it is."""
        return self.client.revise(
            self, add=add, relabel=relabel, remove=remove, timeout=timeout, **options
        )

    async def delete(self) -> None:
        """Delete the model on the server."""
        await self.client.delete(self.id)

    async def __aenter__(self) -> Self:
        """Begin a block that needs the model; it is deleted afterwards."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.delete()
        except AdaptedModelNotFoundError:  # deleted within, or expired
            pass
        except KshotError:
            if error is None:  # else that error tells more
                raise

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AsyncAdaptedModel can be neither copied nor pickled: pass its id, and get it from "
            f"a client there, AsyncClient({self.client.address!r}).get({self.id!r})"
        )
