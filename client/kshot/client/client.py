"""The client: one method for each call of the service."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kshot.client import exchange
from kshot.client.adapt_run import AdaptRun
from kshot.client.adapted_model import AdaptedModel
from kshot.client.connection.channel import check_timeout
from kshot.client.connection.connection import Connection
from kshot.client.connection.credentials import PathLike, Requested
from kshot.client.values import check_path

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path
    from typing import NoReturn, Self, Unpack

    from kshot.client.capabilities import Capabilities
    from kshot.client.exchange.files import TellBytes
    from kshot.client.inputs import Images
    from kshot.client.kept_model import KeptModel
    from kshot.client.labels import Label, Labels
    from kshot.client.options import AdaptOptions
    from kshot.client.private_server import PrivateServer
    from kshot.client.results import Prediction

DEFAULT_TIMEOUT_S = 30.0


class Client:
    """A connection to a kshot server at HOST:PORT; a context manager, safe to share by threads.

    It belongs to the process that made it: a child makes its own. Calls raise `KshotError`, whose
    subclasses tell what a caller can do. Every call has a deadline: `timeout` seconds, unless the
    call names its own; one with a `time_budget` has so much more.

    `tls` encrypts and checks the server's certificate, by the machine's authorities or those of the
    file `ca`; `cert` is a pair of files, the client's own certificate and its private key. Both
    imply `tls`. `api_key` is a key, or a path-like object: the file with the key; over plain text
    it goes to this machine alone. What is left out comes from the environment: `KSHOT_TLS`,
    `KSHOT_CA`, `KSHOT_CERT` and `KSHOT_CERT_KEY`, `KSHOT_API_KEY` or `KSHOT_API_KEY_FILE`.
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
        self._connection = Connection(address, Requested(tls, ca, cert, api_key))
        self._caller = exchange.Caller(self._connection, self._known)
        self._server: PrivateServer | None = None

    @classmethod
    def local(
        cls,
        *,
        bundles: Sequence[str | os.PathLike[str]] = (),
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """Start a server for this process alone, and return its client.

        It takes seconds to start, serves `bundles` as `kshot serve --bundle` does, keeps models in
        a temporary store, and ends with the last of its clients, which share it, or with this
        process. Raises `InputError` where the extras of a server are not installed,
        `UnavailableError` where it does not start.
        """
        from kshot.client.private_server import private_server  # most clients have no such server

        check_timeout(timeout)
        server = private_server(bundles)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled. A child leaves it to its parent."""
        self._connection.close()
        server, self._server = self._server, None
        if server is not None:
            server.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Client can be neither copied nor pickled: make one where it is needed, "
            f"Client({self.address!r})"
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
    ) -> AdaptedModel:
        """Adapt `model` to labelled images and return a handle on the adapted model.

        Without a `model` the server takes the one that suits the images best. A second request with
        the same `request_id`, a UUID, gets the answer of the first; without one each call has its
        own, so that it may be tried again where the server cannot be reached.

        Images are uint8 (n, height, width[, channels]), prepared float32 (n, channels, height,
        width), float32 vectors (n, features), tensors of PyTorch, paths, bytes of encoded
        images, or pictures of Pillow; labels are n strings or n ints. Images that are larger than
        the model can use are reduced by area before they are sent.
        """
        terms = exchange.Terms(options, request_id, timeout)
        return self._handle(exchange.adapt(self._known, (images, labels), model, terms))

    def adapt_stream(
        self,
        images: Images,
        labels: Labels,
        *,
        model: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AdaptRun:
        """Adapt as `adapt` does, and tell of it: iterate over the run, then ask for its `result`.

        `with client.adapt_stream(…) as run` cancels the adaptation if the block is left before.
        The server hears of it with the first progress that is asked for.
        """
        terms = exchange.Terms(options, request_id, timeout)
        call, read = self._caller.run(
            exchange.adapt_stream(self._known, (images, labels), model, terms)
        )
        return AdaptRun(self._caller.stream(call), read, partial(AdaptedModel.of, self))

    def predict(
        self,
        adapted_model: AdaptedModel | str,
        queries: Images,
        *,
        batch_norm_mode: str | None = None,
        return_logits: bool = False,
        reject_below: float | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Classify queries with an adapted model, given as a handle or by its id.

        Those whose known score is below `reject_below` are marked in `none_of_these`.
        """
        asked = exchange.Queries(queries, return_logits, reject_below)
        return self._caller.run(
            exchange.predict(self._known, adapted_model, asked, batch_norm_mode, timeout)
        )

    def adapt_and_predict(
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
        asked = exchange.Queries(queries, return_logits, reject_below)
        terms = exchange.Terms(options, timeout=timeout)
        return self._caller.run(
            exchange.adapt_and_predict(self._known, (images, labels), asked, model, terms)
        )

    def get(self, adapted_model: str) -> AdaptedModel:
        """Return a handle on the adapted model with this id."""
        return self._handle(exchange.get(self._known, adapted_model))

    def list(self, *, model: str = "", filter: str = "") -> Iterator[AdaptedModel]:  # noqa: A002 -- the wire's name
        """Yield the adapted models that the server keeps, page by page.

        Only those of `model` (`NAME`, whether or not it is still served, `NAME@VERSION`, or
        `NAME@LABEL` of a served version), and those that fit all terms of `filter`, such as
        `class_name = "cat" AND expire_time < "2030-01-01T00:00:00Z"`. An unknown name gives none.
        """
        token = ""
        while True:
            page, token = self._caller.run(exchange.list_page(self._known, model, filter, token))
            yield from (AdaptedModel.of(self, kept) for kept in page)
            if not token:
                return

    def renew(
        self,
        adapted_model: AdaptedModel | str,
        *,
        ttl: float | timedelta | None = None,
        expire_at: datetime | None = None,
        etag: str = "",
    ) -> AdaptedModel:
        """Let an adapted model expire after `ttl`, or at `expire_at`; return its new handle.

        With an `etag` the server refuses unless that of its description is still the same.
        """
        return self._handle(exchange.renew(self._known, adapted_model, ttl, expire_at, etag))

    def revise(
        self,
        adapted_model: AdaptedModel | str,
        *,
        add: tuple[Images, Labels] | None = None,
        relabel: Mapping[int, Label] | None = None,
        remove: Iterable[int] = (),
        etag: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
        **options: Unpack[AdaptOptions],
    ) -> AdaptedModel:
        """Adapt anew to the changed support set of an adapted model, which stays as it is.

        `add` is a pair of images and labels as `adapt` takes them, of known or new classes;
        `relabel` gives examples other labels and `remove` leaves examples out, by their indices in
        the support set. Options that are left out are those of the adapted model. The labels of the
        new handle are the caller's own where `adapted_model` is a handle that has such.
        """
        revision, terms = (
            exchange.read_revision(add, relabel, remove),
            exchange.Terms(options, request_id, timeout),
        )
        return self._handle(exchange.revise(self._known, adapted_model, revision, etag, terms))

    def import_model(
        self,
        path: str | Path,
        *,
        ttl: float | timedelta | None = None,
        timeout: float | None = None,
        progress: TellBytes | None = None,
    ) -> AdaptedModel:
        """Keep an adapted model again that `export` wrote a file of, under a new id.

        Its bundle must be served there. It has no support set, so it cannot be revised. `progress`
        is called with the bytes sent and those of the file, in a thread of gRPC.
        """
        return self._handle(exchange.import_model(self._known, path, ttl, timeout, progress))

    def delete(self, adapted_model: AdaptedModel | str) -> None:
        """Delete an adapted model, given as a handle or by its id."""
        self._caller.run(exchange.delete(self._known, adapted_model))

    def export(
        self,
        adapted_model: AdaptedModel | str,
        path: str | Path,
        *,
        batch_norm_mode: str | None = None,
        progress: TellBytes | None = None,
    ) -> Path:
        """Write an adapted model as a self-contained ONNX file, whole or not at all.

        `progress` is called with the bytes received and those of the file.
        """
        call = exchange.export_call(self._known, adapted_model, batch_norm_mode)
        parts = self._caller.stream(call)
        return exchange.write_export(parts, check_path("path", path), progress)

    def capabilities(self) -> Capabilities:
        """Return the served models, their options and limits, and the server's own limits."""
        return self._caller.run(self._known.capabilities(self._known.patience()))

    def _handle(self, asked: exchange.Exchange[KeptModel]) -> AdaptedModel:
        return AdaptedModel.of(self, self._caller.run(asked))
