"""Requests with an id: one that is repeated gets the answer of the first, and adapts once."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from kshot.server.adaptation import AdaptResult
from kshot.server.call_context import current_call
from kshot.server.errors import DeadlineExceeded, RequestIdReused
from kshot.server.lives.model_maker import Remember
from kshot.server.request.shared_work import SharedWork
from kshot.server.request.validation import check_request_id
from kshot.server.request.violations import Violations
from kshot.server.rpc.encode import adapted_model_message, report_message, timing_message
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.store.failures import RequestAnswered
from kshot.server.store.kept_models import KeptModels
from kshot.server.store.store import RequestOf
from kshot.server.store.tables.rows import AnsweredRequest
from kshot.server.workers import Workers
from kshot.v1 import adaptation_pb2 as wire

_Key: TypeAlias = tuple[str, str]  # tenant and request id

Request: TypeAlias = wire.AdaptRequest | wire.ReviseAdaptedModelRequest
Response = TypeVar("Response", wire.AdaptResponse, wire.ReviseAdaptedModelResponse)
Adapt = Callable[[Remember | None], Awaitable[AdaptResult]]

# Hashing this much takes under a millisecond; larger requests are hashed in a thread.
_ON_LOOP = 2**18


class RequestIds:
    """Answers requests to adapt, each id of a tenant once; for one event loop.

    Answers are kept for `ttl` seconds, failures are not. Work for an id is a task of its own, which
    goes on while any of its callers waits: each of them has its own deadline and may leave.
    """

    def __init__(self, kept_models: KeptModels, workers: Workers, ttl: float) -> None:
        self._kept_models = kept_models
        self._workers = workers
        self._ttl = ttl
        self._runs: dict[_Key, tuple[str, SharedWork[_Made]]] = {}  # with the body's digest

    async def answer(
        self, request: Request, kind: type[Response], violations: Violations, adapt: Adapt
    ) -> Response:
        """Return the answer to a request, with the timing of this call; the request loses its id.

        `adapt` does the work, and keeps the adapted model with what the function that it is given
        returns. Raises `RequestIdReused`, or what `adapt` and `KeptModels.get` raise.
        """
        request_id = request.request_id
        if request_id and check_request_id(request_id, violations):
            request.ClearField("request_id")
            body_digest = await self._body_digest(request)
            key = (current_call().tenant, request_id.lower())
            made, new = await self._answer(key, body_digest, adapt)
        else:  # `adapt` raises the violations
            made, new = await _make(adapt, None), True
        return kind(
            adapted_model=made.adapted_model,
            report=made.report,
            timing=timing_message(current_call()),
            deduplicated=not new,
        )

    async def _answer(self, key: _Key, body_digest: str, adapt: Adapt) -> tuple[_Made, bool]:
        """Return an answer, and whether the work of this call made it."""
        call = current_call()
        while True:
            own = key not in self._runs
            if own:
                self._begin(key, body_digest, adapt)
            digest, run = self._runs[key]
            if digest != body_digest:
                raise RequestIdReused
            try:
                made = await run.wait(call, own=own)
            except DeadlineExceeded:
                # It may have begun with less time than this call has.
                if own or call.timed_out():
                    raise
                continue
            if made is not None:
                return made, own and made.new

    def _begin(self, key: _Key, body_digest: str, adapt: Adapt) -> None:
        run = SharedWork(partial(self._work, key, body_digest, adapt))
        self._runs[key] = body_digest, run
        run.task.add_done_callback(lambda _task: self._runs.pop(key))

    async def _work(self, key: _Key, body_digest: str, adapt: Adapt) -> _Made:
        """Return the answer that is kept, or make one and keep it."""
        _tenant, request_id = key
        while (found := await self._kept_models.find_request(request_id)) is None:
            with suppress(RequestAnswered):  # another was faster: it is found now
                return await _make(adapt, partial(self._remember, key, body_digest))
        if found.body_digest != body_digest:
            raise RequestIdReused
        kept = await self._kept_models.get(found.adapted_model)
        report = wire.AdaptReport.FromString(found.answer)
        return _Made(adapted_model_message(kept), report, new=False)

    def _remember(self, key: _Key, body_digest: str, adaptation: AdaptResult) -> RequestOf:
        """Return what makes the row of an answered request for the model as it is stored."""
        report = report_message(adaptation).SerializeToString()

        def request_of(model: AdaptedModelRecord) -> AnsweredRequest:
            end_time = model.create_time + self._ttl
            return AnsweredRequest(*key, body_digest, model.id, report, end_time)

        return request_of

    async def _body_digest(self, request: Request) -> str:
        """Return the SHA-256 of a request."""

        def digest() -> str:
            with current_call().measure("decode"):
                digest = hashlib.sha256(request.DESCRIPTOR.full_name.encode())
                digest.update(request.SerializeToString(deterministic=True))
                return digest.hexdigest()

        if request.ByteSize() <= _ON_LOOP:
            return digest()
        return await self._workers.prepare(digest)


@dataclass(frozen=True)
class _Made:
    """An answer without its timing; `new` if this server has just made it."""

    adapted_model: wire.AdaptedModel
    report: wire.AdaptReport
    new: bool = True


async def _make(adapt: Adapt, remember: Remember | None) -> _Made:
    adaptation = await adapt(remember)
    return _Made(adapted_model_message(adaptation.model), report_message(adaptation))
