"""The client for event loops: the methods of `Client`, awaited."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from kshot.client import exchange
from kshot.client.aio.adapt_run import AsyncAdaptRun
from kshot.client.aio.adapted_model import AsyncAdaptedModel
from kshot.client.aio.caller import AsyncCaller
from kshot.client.aio.connection import AsyncConnection
from kshot.client.aio.model_call import ModelCall
from kshot.client.client import DEFAULT_TIMEOUT_S
from kshot.client.connection.channel import check_timeout
from kshot.client.connection.credentials import PathLike, Requested
from kshot.client.values import check_path

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path
    from typing import NoReturn, Self, Unpack

    from kshot.client.aio.adapt_run import Started
    from kshot.client.capabilities import Capabilities
    from kshot.client.exchange.files import TellBytes
    from kshot.client.inputs import Images
    from kshot.client.kept_model import KeptModel
    from kshot.client.labels import Label, Labels
    from kshot.client.options import AdaptOptions
    from kshot.client.private_server import PrivateServer
    from kshot.client.results import Prediction


class AsyncClient:
    """A connection of an event loop to a kshot server at HOST:PORT; an async context manager.

    Arguments, methods, results and errors are those of `Client`, where they are described. It is
    safe to share by the tasks of the loop that makes the first call. Threads encode images and
    decode the answers, so that the loop goes on. A task that is cancelled ends its call at the
    server, too. A forked child makes a `Client` of its own.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: bool | None = None,
        ca: PathLike | None = None,
        cert: tuple[PathLike, PathLike] | None = None,
        api_key: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._known = exchange.KnownServer(timeout)
        self._connection = AsyncConnection(address, Requested(tls, ca, cert, api_key))
        self._caller = AsyncCaller(self._connection, self._known)
        self._server: PrivateServer | None = None

    @classmethod
    async def local(
        cls,
        *,
        bundles: Sequence[str | os.PathLike[str]] = (),
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """Start a server for this process alone, and return its client: see `Client.local`."""
        from kshot.client.private_server import private_server  # most clients have no such server

        check_timeout(timeout)
        server = await asyncio.to_thread(private_server, bundles)
        try:
            client = cls(server.address, tls=False, api_key=server.api_key, timeout=timeout)
        except BaseException:
            server.release()
            raise
        client._server = server
        return client

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return self._connection.address

    @property
    def usable(self) -> bool:
        """Tell whether calls can be made: not once a local server has ended."""
        return self._server is None or self._server.alive

    @property
    def timeout(self) -> float:
        """Seconds that a call may take unless it names its own."""
        return self._known.timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled. A child leaves it to its parent."""
        server, self._server = self._server, None
        try:
            await self._connection.close()
        finally:
            if server is not None:
                await asyncio.to_thread(server.release)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AsyncClient can be neither copied nor pickled: make one where it is needed, "
            f"AsyncClient({self.address!r})"
        )

    def adapt(
        self,
        images: Images,
        labels: Labels,
        *,
        model: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> ModelCall:
        """Adapt `model` to labelled images: `await` it for a handle, or use `async with`."""
        terms = exchange.Terms(options, request_id, timeout)
        asked = exchange.adapt(self._known, (images, labels), model, terms)
        return ModelCall(self._handle(asked, images))

    def adapt_stream(
        self,
        images: Images,
        labels: Labels,
        *,
        model: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AsyncAdaptRun:
        """Adapt as `adapt` does, and tell of it: `async for` gives progress, `result` the model.

        Images are read, and the server hears of it, with the first progress that is asked for.
        """
        terms = exchange.Terms(options, request_id, timeout)

        async def start() -> Started:
            asked = exchange.adapt_stream(self._known, (images, labels), model, terms)
            call, read = await self._caller.run(asked, images)
            return self._caller.stream(call), read

        return AsyncAdaptRun(start, partial(AsyncAdaptedModel.of, self))

    async def predict(
        self,
        adapted_model: AsyncAdaptedModel | str,
        queries: Images,
        *,
        batch_norm_mode: str | None = None,
        return_logits: bool = False,
        reject_below: float | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Classify queries with an adapted model, given as a handle or by its id."""
        wanted = exchange.Queries(queries, return_logits, reject_below)
        asked = exchange.predict(self._known, adapted_model, wanted, batch_norm_mode, timeout)
        return await self._caller.run(asked, queries)

    async def adapt_and_predict(
        self,
        images: Images,
        labels: Labels,
        queries: Images,
        *,
        model: str | None = None,
        return_logits: bool = False,
        reject_below: float | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> Prediction:
        """Adapt, classify queries and keep nothing, in one call."""
        wanted = exchange.Queries(queries, return_logits, reject_below)
        terms = exchange.Terms(options, timeout=timeout)
        examples = images, labels
        asked = exchange.adapt_and_predict(self._known, examples, wanted, model, terms)
        return await self._caller.run(asked, images, queries)

    async def get(self, adapted_model: str) -> AsyncAdaptedModel:
        """Return a handle on the adapted model with this id."""
        return await self._handle(exchange.get(self._known, adapted_model))

    async def list(self, *, model: str = "", filter: str = "") -> AsyncIterator[AsyncAdaptedModel]:  # noqa: A002 -- the wire's name
        """Yield the adapted models that the server keeps, page by page."""
        token = ""
        while True:
            asked = exchange.list_page(self._known, model, filter, token)
            page, token = await self._caller.run(asked)
            for kept in page:
                yield AsyncAdaptedModel.of(self, kept)
            if not token:
                return

    async def renew(
        self,
        adapted_model: AsyncAdaptedModel | str,
        *,
        ttl: float | timedelta | None = None,
        expire_at: datetime | None = None,
        etag: str = "",
    ) -> AsyncAdaptedModel:
        """Let an adapted model expire after `ttl`, or at `expire_at`; return its new handle."""
        return await self._handle(exchange.renew(self._known, adapted_model, ttl, expire_at, etag))

    def revise(
        self,
        adapted_model: AsyncAdaptedModel | str,
        *,
        add: tuple[Images, Labels] | None = None,
        relabel: Mapping[int, Label] | None = None,
        remove: Iterable[int] = (),
        etag: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> ModelCall:
        """Adapt anew to the changed support set of an adapted model: `await` or `async with`."""
        revision = exchange.read_revision(add, relabel, remove)
        terms = exchange.Terms(options, request_id, timeout)
        asked = exchange.revise(self._known, adapted_model, revision, etag, terms)
        return ModelCall(self._handle(asked, *([] if add is None else [add[0]])))

    def import_model(
        self,
        path: str | Path,
        *,
        ttl: float | timedelta | None = None,
        timeout: float | None = None,
        progress: TellBytes | None = None,
    ) -> ModelCall:
        """Keep an adapted model again that `export` wrote a file of: `await` or `async with`."""
        asked = exchange.import_model(self._known, path, ttl, timeout, progress)
        return ModelCall(self._handle(asked, path))

    async def delete(self, adapted_model: AsyncAdaptedModel | str) -> None:
        """Delete an adapted model, given as a handle or by its id."""
        await self._caller.run(exchange.delete(self._known, adapted_model))

    async def export(
        self,
        adapted_model: AsyncAdaptedModel | str,
        path: str | Path,
        *,
        batch_norm_mode: str | None = None,
        progress: TellBytes | None = None,
    ) -> Path:
        """Write an adapted model as a self-contained ONNX file, whole or not at all.

        A thread writes it, and calls `progress`.
        """
        call = exchange.export_call(self._known, adapted_model, batch_norm_mode)
        place, parts = check_path("path", path), self._caller.stream(call)
        try:
            return await asyncio.to_thread(
                exchange.write_export, parts.from_thread(), place, progress
            )
        finally:
            parts.cancel()

    async def capabilities(self) -> Capabilities:
        """Return the served models, their options and limits, and the server's own limits."""
        return await self._caller.run(self._known.capabilities(self._known.patience()))

    async def _handle(
        self, asked: exchange.Exchange[KeptModel], *images: object
    ) -> AsyncAdaptedModel:
        return AsyncAdaptedModel.of(self, await self._caller.run(asked, *images))
