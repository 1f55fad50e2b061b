"""An engine without torch, for tests of the front: class means, and misbehaviour by seed."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from kshot.bundle import Bundle, load_bundle
from kshot.internal.v1 import engine_pb2 as wire
from kshot.internal.v1 import engine_pb2_grpc as wire_grpc

Numbers = np.ndarray[Any, Any]
Context = grpc.aio.ServicerContext[Any, Any]

DIE = 900
HANG = 901
DIVERGE = 902
NOT_FINITE = 903
PARTIAL = 904
REFUSE = 905
WAIT = 906
NO_MEMORY = 907
FREEZE = 908
HANG_IN_FOLDS = 909
HANG_UNTIL_LEFT = 910

UNLOADABLE = 66  # a version
EXIT_CODE = 9
TAIL_SECONDS, TAIL_WEIGHT = 1e-4, 0.75
SECRET = "/secret/place"

# Pipes in this folder: the engine tells in `arrived` that a task is here, and reads `go`.
PIPES = "KSHOT_FAKE_ENGINE_PIPES"
START = "KSHOT_FAKE_ENGINE_START"


def tell_arrival() -> None:
    with (Path(os.environ[PIPES]) / "arrived").open("w") as pipe:
        pipe.write("here\n")


def wait_to_go() -> None:
    (Path(os.environ[PIPES]) / "go").read_text()


class FakeEngine(wire_grpc.EngineServiceServicer):
    def __init__(self, bundles: Sequence[Bundle]) -> None:
        other = os.environ.get(START) == "other"
        self._bundles = {
            bundle.digest[::-1] if other else bundle.digest: bundle for bundle in bundles
        }
        self._tails = {
            digest: {} if tail is None else tail.parameters
            for digest, bundle in self._bundles.items()
            if "norm.scale" not in bundle.read_weights().parameters
            for tail in (bundle.read_tail(),)
        }

    async def DescribeEngine(  # noqa: N802 -- named as in the .proto
        self, _request: wire.DescribeEngineRequest, _context: Context
    ) -> wire.DescribeEngineResponse:
        return wire.DescribeEngineResponse(
            device="cpu",
            device_name="fake",
            torch_version="none",
            compute_path="fake",
            models=[
                wire.EngineModel(
                    model=bundle.manifest.name,
                    bundle_digest=digest,
                    tail_example_seconds=TAIL_SECONDS if self._tails.get(digest) else 0,
                )
                for digest, bundle in self._bundles.items()
            ],
        )

    async def LoadBundle(  # noqa: N802 -- named as in the .proto
        self, request: wire.LoadBundleRequest, context: Context
    ) -> wire.LoadBundleResponse:
        bundle = load_bundle(Path(request.path))
        if bundle.manifest.version == UNLOADABLE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "its network is another")
        self._bundles[bundle.digest] = bundle
        return wire.LoadBundleResponse(
            model=wire.EngineModel(model=bundle.manifest.name, bundle_digest=bundle.digest)
        )

    async def UnloadBundle(  # noqa: N802 -- named as in the .proto
        self, request: wire.UnloadBundleRequest, _context: Context
    ) -> wire.UnloadBundleResponse:
        self._bundles.pop(request.bundle_digest, None)
        return wire.UnloadBundleResponse()

    async def Adapt(  # noqa: N802 -- named as in the .proto
        self, request: wire.AdaptRequest, context: Context
    ) -> wire.AdaptResponse:
        if request.seed in (DIE, HANG, WAIT):
            await asyncio.to_thread(tell_arrival)
        if request.seed == DIE:
            os._exit(EXIT_CODE)
        if request.seed == FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        if request.seed == HANG:
            await asyncio.Event().wait()
        if request.seed == HANG_UNTIL_LEFT:
            try:  # the caller may leave as soon as it hears of the arrival
                await asyncio.to_thread(tell_arrival)
                await asyncio.Event().wait()
            finally:
                tell_arrival()
        if request.seed == HANG_IN_FOLDS and len(request.class_indices) < 3 * request.way:
            await asyncio.Event().wait()
        if request.seed == WAIT:
            await asyncio.to_thread(wait_to_go)
        if request.seed == REFUSE:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, SECRET)
        if request.seed == NO_MEMORY:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, SECRET)
        partial = request.seed == PARTIAL
        if partial and not request.allow_partial:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no time")
        if partial and context.time_remaining() is None:
            await context.abort(grpc.StatusCode.INTERNAL, "wanted a deadline")
        if request.seed == DIVERGE:
            return wire.AdaptResponse(step_count=3, stop_reason=wire.STOP_REASON_DIVERGED)
        if request.bundle_digest not in self._bundles:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not loaded")
        if request.bundle_digest in self._tails:
            tail = self._tails[request.bundle_digest]
            return head_and_tail(request, tail, partial=partial)
        return class_means(request, 1 if partial else request.step_count)

    async def AdaptWithProgress(  # noqa: N802 -- named as in the .proto
        self, request: wire.AdaptWithProgressRequest, context: Context
    ) -> AsyncIterator[wire.AdaptWithProgressResponse]:
        """Adapt; tell all losses but the last before, each alone."""
        response = await self.Adapt(request.task, context)
        for loss in response.support_loss[:-1]:
            progress = wire.AdaptProgress(support_loss=[loss])
            yield wire.AdaptWithProgressResponse(progress=progress)
        yield wire.AdaptWithProgressResponse(result=response)


def class_means(request: wire.AdaptRequest, step_count: int) -> wire.AdaptResponse:
    support = np.frombuffer(request.support.data, "<f4").reshape(len(request.class_indices), -1)
    labels = np.asarray(request.class_indices)
    whitened = (support - support.mean(axis=0)) / np.sqrt(support.var(axis=0) + 1e-3)
    weight = np.stack([whitened[labels == index].mean(axis=0) for index in range(request.way)])
    bias = -0.5 * (weight**2).sum(axis=1)
    if request.seed == NOT_FINITE:
        bias = bias * np.nan
    logits = whitened @ weight.T + bias
    right = logits.argmax(axis=1) == labels
    size = support.shape[1]
    parameters = {
        "head.bias": bias,
        "head.weight": weight,
        "norm.scale": np.ones(size),
        "norm.shift": np.zeros(size),
    }
    statistics = {"norm.mean": support.mean(axis=0), "norm.variance": support.var(axis=0)}
    response = wire.AdaptResponse(
        parameters=[tensor(name, array) for name, array in parameters.items()],
        statistics=[tensor(name, array) for name, array in statistics.items()],
        step_count=step_count,
        stop_reason=wire.STOP_REASON_COMPLETED
        if step_count == request.step_count
        else wire.STOP_REASON_TIME_BUDGET,
        support_loss=[1.0 / (step + 1) for step in range(step_count)],
        support_accuracy=float(right.mean()),
        compute_path="fake",
        slot_bucket=1,
    )
    response.compute_time.FromMilliseconds(1)
    if request.step_count == 0:  # in truth those of heads that are made without each example
        response.held_out_logits.shape.extend(logits.shape)
        response.held_out_logits.data = logits.astype("<f4").tobytes()
    return response


def head_and_tail(
    request: wire.AdaptRequest, tail: Mapping[str, Numbers], *, partial: bool
) -> wire.AdaptResponse:
    """Make a head of means of 12 features; behind it a tail whose classes depend on the crops."""
    support = np.frombuffer(request.support.data, "<f4").reshape(len(request.class_indices), -1)
    labels, features = np.asarray(request.class_indices), support[:, :12]
    weight = np.stack([features[labels == index].mean(axis=0) for index in range(request.way)])
    parameters = {"head.bias": -0.5 * (weight**2).sum(axis=1), "head.weight": weight}
    logits = features @ weight.T + parameters["head.bias"]
    if request.HasField("tail") and not partial:
        maps = np.frombuffer(request.tail.crop_maps.data, "<f4")
        maps = maps.reshape(request.tail.crop_maps.shape)
        assert maps.shape[1:] == (len(labels), 3, 4, 4)
        classes = np.random.default_rng(int(1e4 * maps.std())).normal(size=(request.way, 8))
        parameters |= {**tail, "tail.classes": classes}
        parameters = {
            name: array.astype(np.float16) if name.startswith("tail.") else array
            for name, array in parameters.items()
        }
        parameters["tail.mix"] = np.array([1, TAIL_WEIGHT])
    response = wire.AdaptResponse(
        parameters=[tensor(name, array) for name, array in parameters.items()],
        stop_reason=wire.STOP_REASON_TIME_BUDGET if partial else wire.STOP_REASON_COMPLETED,
        support_accuracy=1.0,
        compute_path="fake",
    )
    response.compute_time.FromMilliseconds(1)
    response.held_out_logits.shape.extend(logits.shape)
    response.held_out_logits.data = logits.astype("<f4").tobytes()
    return response


def tensor(name: str, array: Numbers) -> wire.NamedTensor:
    return wire.NamedTensor(name=name, shape=array.shape, data=array.astype("<f4").tobytes())


def watch_parent(leave: Callable[[int], None]) -> None:
    os.read(sys.stdin.fileno(), 1)
    leave(0)


async def serve(socket: str, bundles: Sequence[Bundle]) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    wire_grpc.add_EngineServiceServicer_to_server(FakeEngine(bundles), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--bundle", action="append", type=Path)
    parser.add_argument("--tail-seconds", action="append")
    arguments = parser.parse_args()
    threading.Thread(target=watch_parent, args=(os._exit,), daemon=True).start()
    if os.environ.get(START) == "fail":
        sys.exit(EXIT_CODE)
    if os.environ.get(START) == "never":
        tell_arrival()
        threading.Event().wait()
    bundles = [load_bundle(path) for path in arguments.bundle]
    asyncio.run(serve(arguments.socket, bundles))


if __name__ == "__main__":
    main()
