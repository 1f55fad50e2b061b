from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc_status import rpc_status

from kshot.bundle import Bundle
from kshot.server.config import ServerConfig
from kshot.server.server import running
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
PIPES = "KSHOT_FAKE_ENGINE_PIPES"


@dataclass
class RunningServer:
    """A server in a thread of its own, and a channel to it."""

    address: str
    ready: dict[str, Any]
    channel: grpc.Channel
    stub: AdaptationServiceStub
    stop: Callable[[], None]
    hurry: Callable[[], None]
    join: Callable[[], None]


StartServer = Callable[..., AbstractContextManager[RunningServer]]


@contextmanager
def run_server(config: ServerConfig) -> Iterator[RunningServer]:
    started: Future[Any] = Future()

    async def main() -> None:
        stop, hurry = asyncio.Event(), asyncio.Event()
        async with running(config, stop, hurry) as ready:
            started.set_result((asyncio.get_running_loop(), stop, hurry, ready))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        loop, stop, hurry, ready = started.result()
    except BaseException:
        thread.join()
        raise

    def set_event(event: asyncio.Event) -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(event.set)

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    channel = grpc.insecure_channel(ready["grpc"], options)
    try:
        yield RunningServer(
            ready["grpc"],
            ready,
            channel,
            AdaptationServiceStub(channel),
            stop=lambda: set_event(stop),
            hurry=lambda: set_event(hurry),
            join=thread.join,
        )
    finally:
        set_event(stop)
        set_event(hurry)
        thread.join()
        channel.close()


@pytest.fixture(scope="session")
def make_config(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ServerConfig]:
    """Make settings of a server with the fake engine, a new store and a free port."""

    def make(**settings: object) -> ServerConfig:
        defaults: dict[str, Any] = {
            "bundles": (tiny_bundle.path,),
            "store": tmp_path_factory.mktemp("store") / "kshot",
            "listen": "127.0.0.1:0",
            "engine_command": (sys.executable, str(FAKE_ENGINE)),
            "engine_start": 60.0,
            "engines": 1,
            "engine_wait": 0.05,
        }
        return ServerConfig(**(defaults | settings))

    return make


@pytest.fixture(scope="session")
def run_in_thread() -> Callable[[ServerConfig], AbstractContextManager[RunningServer]]:
    """Run a server with settings of one's own."""
    return run_server


@pytest.fixture
def start_server(
    make_config: Callable[..., ServerConfig],
    pipes: Path,  # noqa: ARG001 -- the fake engine needs it
) -> StartServer:
    """Start a server with some settings changed."""
    return lambda **settings: run_server(make_config(**settings))


@pytest.fixture(scope="session")
def server(
    make_config: Callable[..., ServerConfig],
    pipes: Path,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[RunningServer]:
    """A server that tests of this folder share."""
    with run_server(make_config()) as shared:
        yield shared


@pytest.fixture(scope="session")
def stub(server: RunningServer) -> AdaptationServiceStub:
    """Calls to the shared server."""
    return server.stub


@pytest.fixture(scope="session")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where tests and fake engines wait for each other."""
    folder = tmp_path_factory.mktemp("pipes")
    for name in ("arrived", "go"):
        os.mkfifo(folder / name)
    os.environ[PIPES] = str(folder)
    yield folder
    del os.environ[PIPES]


@pytest.fixture
def wait_arrival(pipes: Path) -> Callable[[], str]:
    """Wait until a task that holds on has come to the fake engine."""
    return (pipes / "arrived").read_text


@pytest.fixture
def arrived(pipes: Path) -> Iterator[Callable[[float], bool]]:
    """Tell whether a task that holds on comes within so many seconds, or has come before."""
    pipe = os.open(pipes / "arrived", os.O_RDWR)  # so nobody waits for the other end

    def wait(seconds: float) -> bool:
        there, _, _ = select.select([pipe], [], [], seconds)
        return bool(there) and bool(os.read(pipe, len("here\n")))

    yield wait
    os.close(pipe)


@pytest.fixture
def let_go(pipes: Path) -> Callable[[], int]:
    """Let a waiting task of the fake engine go on."""
    return lambda: (pipes / "go").write_text("go\n")


def tensor(array: np.ndarray[Any, Any]) -> wire.Tensor:
    datatype = {"uint8": "UINT8", "float32": "FP32"}.get(array.dtype.name, array.dtype.name)
    return wire.Tensor(datatype=datatype, shape=array.shape, data=array.tobytes())


def random_images(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((count, 1, 4, 4), np.float32)


def make_support_set(way: int = 3, shot: int = 2, seed: int = 0) -> wire.SupportSet:
    return wire.SupportSet(
        images=wire.Images(tensor=tensor(random_images(way * shot, seed))),
        class_indices=[index for index in range(way) for _ in range(shot)],
        class_names=[f"class {index}" for index in range(way)],
    )


def make_adapt_request(way: int = 3, shot: int = 2, **options: object) -> wire.AdaptRequest:
    return wire.AdaptRequest(
        model="tiny",
        support_set=make_support_set(way, shot),
        options=wire.AdaptOptions(**cast(Any, options)),
    )


@pytest.fixture(scope="session")
def support_set() -> Callable[..., wire.SupportSet]:
    """Make a support set of prepared random images, `shot` per class."""
    return make_support_set


@pytest.fixture(scope="session")
def adapt_request() -> Callable[..., wire.AdaptRequest]:
    """Make a request that the server can answer; options by keyword."""
    return make_adapt_request


@pytest.fixture
def queries() -> Callable[..., wire.Images]:
    """Make prepared random queries."""
    return lambda count=4, seed=1: wire.Images(tensor=tensor(random_images(count, seed)))


@dataclass
class Refusal:
    """What a call that must fail was answered; details by the names of their messages."""

    code: str
    reason: str
    details: dict[str, Any]
    trailers: dict[str, Any]
    text: str

    @property
    def violations(self) -> dict[str, str]:
        """The descriptions by field, of a request that does not fit."""
        assert (self.code, self.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        return {
            item.field: item.description for item in self.details["BadRequest"].field_violations
        }


@pytest.fixture(scope="session")
def refusal() -> Callable[[Callable[[], object]], Refusal]:
    """Make a call that must fail, and return its answer."""

    def refused(call: Callable[[], object]) -> Refusal:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error: Any = caught.value
        status = rpc_status.from_call(error)
        assert status is not None, error
        details = {}
        for packed in status.details:
            name = packed.TypeName().removeprefix("google.rpc.")
            assert name not in details
            details[name] = getattr(details_pb2, name)()
            assert packed.Unpack(details[name])
        assert details["ErrorInfo"].domain == "kshot"
        trailers = dict(error.trailing_metadata())
        reason = details["ErrorInfo"].reason
        return Refusal(error.code().name, reason, details, trailers, str(error))

    return refused
