"""The client of event loops asks and answers as the other one, and can be cancelled."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from google.rpc.code_pb2 import Code

from kshot.client import (
    AsyncClient,
    CancelledError,
    Client,
    DeadlineExceededError,
    InputError,
    KshotError,
    UnavailableError,
)
from kshot.client.connection import failures
from kshot.client.kept_model import KeptModel

if TYPE_CHECKING:
    from conftest import FakeServicer

IMAGES = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
LARGE = np.zeros((4, 600, 600), np.uint8)  # a thread reads these, and their model is asked about
LABELS = ["cat", "dog", "dog", "cat"]
ID = "01234567-0123-4567-89ab-0123456789ab"

CALLS: dict[str, Callable[[Any, Path], Any]] = {
    "adapt": lambda client, _: client.adapt(IMAGES, LABELS, request_id=ID, seed=3),
    "adapt large": lambda client, _: client.adapt(LARGE, LABELS, request_id=ID, model="photos"),
    "adapt and predict": lambda client, _: client.adapt_and_predict(
        IMAGES, LABELS, IMAGES, model="omniglot", return_logits=True
    ),
    "predict": lambda client, _: client.predict("am-0", IMAGES, reject_below=0.5),
    "predict large": lambda client, _: client.predict("am-0", LARGE, timeout=9),
    "get": lambda client, _: client.get("am-0"),
    "list": lambda client, _: client.list(model="omniglot"),
    "renew": lambda client, _: client.renew("am-0", ttl=60),
    "revise": lambda client, _: client.revise(
        "am-0", add=(IMAGES, LABELS), remove=[0], request_id=ID
    ),
    "import": lambda client, path: client.import_model(path / "given.onnx", ttl=60),
    "export": lambda client, path: client.export("am-0", path / "mine.onnx"),
    "capabilities": lambda client, _: client.capabilities(),
    "delete": lambda client, _: client.delete("am-0"),
    "unknown id": lambda client, _: client.get("am-9"),
    "old etag": lambda client, _: client.renew("am-0", ttl=60, etag="other"),
    "no label": lambda client, _: client.adapt(IMAGES, ["cat"]),
    "one image": lambda client, _: client.predict("am-0", "cat.png"),
    "export to a folder": lambda client, path: client.export("am-0", path),
}


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture
def client(address: str, runner: asyncio.Runner) -> Iterator[AsyncClient]:
    opened = AsyncClient(address, timeout=10)
    yield opened
    runner.run(opened.close())


@pytest.mark.parametrize("name", CALLS)
def test_both_clients_ask_and_answer_alike(
    name: str, client: AsyncClient, servicer: FakeServicer, tmp_path: Path, runner: asyncio.Runner
) -> None:
    (tmp_path / "given.onnx").write_bytes(b"x" * 1_500_000)
    servicer.useful_sides = {"photos": 512, "omniglot": 512}
    with Client(client.address, timeout=10) as blocking:
        for _ in range(3):
            blocking.adapt(IMAGES, LABELS)
        kept = copy.deepcopy(servicer.kept)

        async def ask(asked: Client | AsyncClient) -> str:
            servicer.kept = copy.deepcopy(kept)
            servicer.request_ids.clear()
            servicer.requests = []
            try:
                return described(await settled(CALLS[name](asked, tmp_path)))
            except KshotError as error:
                return f"{type(error).__name__} {error} {error.reason} {error.request_id}"

        said, requests = runner.run(ask(blocking)), servicer.requests
        awaited = runner.run(ask(client))

    assert awaited == said
    assert servicer.requests == requests


async def settled(value: Any) -> Any:  # noqa: ANN401 -- what any method returns
    """Return what a method of a client comes to."""
    if isinstance(value, AsyncIterator):
        return [each async for each in value]
    if inspect.isawaitable(value):
        return await value
    return list(value) if isinstance(value, Iterator) else value


def described(value: Any) -> str:  # noqa: ANN401 -- a result of any method
    """Return the words of a result, without the client and how long it took."""
    if isinstance(value, list):
        return "\n".join(map(described, value))
    if isinstance(value, KeptModel):
        value = value.description, value.labels, value.report, value.timing
    return re.sub(r"round_trip_ms=[\d.]+", "", repr(value))


def test_a_model_for_a_while_is_deleted(
    client: AsyncClient, servicer: FakeServicer, runner: asyncio.Runner
) -> None:
    """The call is a coroutine too, as tasks are made of."""

    async def use() -> list[str]:
        async with client.adapt(IMAGES, LABELS) as model:
            assert model.id in servicer.kept
            answer = await model.predict(IMAGES[:2])
            async with model.revise(relabel={0: "dog"}), await model.renew(ttl=9) as renewed:
                assert len(servicer.kept) == 2
                assert renewed.labels == ("cat", "dog")
        assert servicer.kept == {}
        with pytest.raises(ZeroDivisionError):
            async with client.adapt(IMAGES, LABELS):
                await client.close()
                raise ZeroDivisionError
        return list(answer.labels)

    async def make() -> tuple[str, ...]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.adapt(IMAGES, LABELS)) for _ in range(3)]
        return tuple(task.result().id for task in tasks)

    assert len(set(runner.run(make()))) == 3
    servicer.kept.clear()
    assert runner.run(use()) == ["cat", "dog"]


def test_what_is_safe_is_tried_again(
    client: AsyncClient, servicer: FakeServicer, runner: asyncio.Runner
) -> None:
    servicer.refuse(Code.UNAVAILABLE, "not now", times=1)
    runner.run(settled(client.adapt(IMAGES, LABELS)))
    assert servicer.requests[0] == servicer.requests[1]

    servicer.refuse(Code.UNAVAILABLE, "not now", times=1)
    with pytest.raises(UnavailableError):
        runner.run(client.adapt_and_predict(IMAGES, LABELS, IMAGES))
    assert len(servicer.requests) == 3


def test_a_cancelled_task_and_a_late_answer_end_the_call(
    client: AsyncClient, servicer: FakeServicer, runner: asyncio.Runner
) -> None:
    async def cancel(call: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(call)
        while not servicer.requests:
            await asyncio.sleep(0)
        task.cancel()
        await task

    servicer.slow = True
    with pytest.raises(asyncio.CancelledError):
        runner.run(cancel(client.adapt(IMAGES, LABELS)))
    with pytest.raises(DeadlineExceededError, match=r"no answer from .* within 0\.1 s"):
        runner.run(client.predict("am-0", IMAGES, timeout=0.1))


def test_closing_ends_calls_and_says_so(
    client: AsyncClient, servicer: FakeServicer, runner: asyncio.Runner
) -> None:
    async def close() -> None:
        task = asyncio.create_task(client.capabilities())
        while not servicer.requests:
            await asyncio.sleep(0)
        await client.close()
        await task

    servicer.slow = True
    with pytest.raises(CancelledError, match="was closed during the call"):
        runner.run(close())
    with pytest.raises(InputError, match="this client is closed; make a new one"):
        runner.run(client.capabilities())


def test_a_client_stays_in_its_loop_and_process(
    client: AsyncClient, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.run(client.capabilities())

    with pytest.raises(InputError, match=r"another event loop; make a new one here: AsyncClient\("):
        asyncio.run(client.capabilities())
    for attempt in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match=r"make one where it is needed, AsyncClient\('127"):
            attempt(client)
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)
        with pytest.raises(InputError, match=r"this client belongs to process .* which forked"):
            runner.run(client.capabilities())


def test_the_loop_goes_on_while_a_thread_works(
    client: AsyncClient, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading large images, and looking at a port of localhost for TLS."""
    gone = AsyncClient("localhost:1")
    loops = list[bool]()

    def speaks_tls(_host: str, _port: int) -> None:
        loops.append(asyncio._get_running_loop() is not None)

    class Watched(list[bytes]):
        def __iter__(self) -> Iterator[bytes]:
            loops.append(asyncio._get_running_loop() is not None)
            return super().__iter__()

    monkeypatch.setattr(failures, "speaks_tls", speaks_tls)
    with pytest.raises(UnavailableError, match="nothing listens there"):
        runner.run(gone.adapt_and_predict(IMAGES, LABELS, IMAGES))
    runner.run(settled(client.adapt(Watched([b"1", b"2"]), ["a", "b"])))
    runner.run(gone.close())

    assert loops == [False, False]
