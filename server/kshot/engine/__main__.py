"""`python -m kshot.engine`: started by the front, not by people."""

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import grpc
import torch

from kshot.bundle import BundleError
from kshot.bundle.signals.json_log import start_logging
from kshot.bundle.signals.tracing import Tracer, start_tracing, tracing_wanted
from kshot.engine.device import COMPUTE_THREADS, DeviceDescription, choose_device
from kshot.engine.loading import Models
from kshot.engine.programs import Programs
from kshot.engine.scheduler import Scheduler
from kshot.engine.service import EngineService
from kshot.engine.tuning import Tuning
from kshot.engine.warm_up import first_plan
from kshot.internal.v1 import engine_pb2_grpc
from kshot.learner import (
    CompilationError,
    StepCache,
    compiler_name,
    compute_reproducibly,
    default_cache_folder,
)

DRAIN_SECONDS = 5.0
MAX_MESSAGE_BYTES = 1 << 30  # the front caps requests; weights of large networks come back
STANDARD_INPUT = 0
SOCKET_FOLDER_PREFIX = "kshot-"  # of the temporary folder that the front makes

_log = logging.getLogger("kshot.engine")  # this module is `__main__`


def main() -> int:
    """Serve until SIGTERM or until the front is gone; return 1 if the engine cannot start."""
    arguments = _parse_arguments()
    start_logging(level=arguments.log_level, process="engine")
    torch.set_num_threads(COMPUTE_THREADS)
    compute_reproducibly()
    try:
        device = choose_device(arguments.device)
    except ValueError as error:
        return _not_started(error)
    programs = Programs(_cache(device.device) if arguments.compile else None, device.device)
    scheduler = Scheduler(programs, device, first_plan(device))
    tuning = Tuning(programs, device, scheduler)
    models = Models(device, scheduler, tuning, dict(arguments.tail_seconds))
    try:
        for path in arguments.bundle:
            models.load(path)
    except BundleError as error:
        return _not_started(error)
    tuning.start(list(models))
    tracer = _tracer(arguments.trace)
    service = EngineService(models, device, scheduler, tuning, tracer)
    names = sorted({model.name for model in models})
    asyncio.run(_serve(arguments.socket, service, device, names))
    scheduler.close()
    if tracer is not None:
        tracer.close()
    programs.close()
    logging.shutdown()
    os._exit(0)  # a step that hangs in its thread would hold up an ordinary exit


def _not_started(error: Exception) -> int:
    _log.error("not_started", extra={"fields": {"reason": str(error)}})
    return 1


def _cache(device: torch.device) -> StepCache | None:
    """Open the folder of compiled steps; log once if nothing can be compiled."""
    reason = None
    cache = None
    try:
        cache = StepCache.open(default_cache_folder())
    except CompilationError as error:
        reason = str(error)
    except RuntimeError:  # a user without a home
        reason = "this user has no home folder; set KSHOT_CACHE to a folder for compiled steps"
    if cache is not None and compiler_name(device) is None:
        # Steps that were compiled before are still loaded.
        reason = "no C++ compiler was found; install g++ or clang++"
    if reason is not None:
        _log.warning("not_compiled", extra={"fields": {"reason": reason, "effect": "slower steps"}})
    return cache


def _tracer(flag: bool) -> Tracer | None:
    """Trace where the front does; it tells of missing libraries."""
    if not (flag or tracing_wanted()):
        return None
    try:
        return start_tracing("engine", torch.__version__)
    except ImportError:
        return None


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kshot.engine", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--tail-seconds",
        type=_tail_seconds,
        action="append",
        default=[],
        help="DIGEST=SECONDS that a tail's step takes for each example, measured before",
    )
    parser.add_argument("--trace", action="store_true", help="send traces, as OTEL_… says")
    parser.add_argument("--log-level", default="info")
    return parser.parse_args()


def _tail_seconds(text: str) -> tuple[str, float]:
    name, _, seconds = text.rpartition("=")
    return name, float(seconds)


async def _serve(
    socket: Path, service: EngineService, device: DeviceDescription, models: list[str]
) -> None:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
    )
    engine_pb2_grpc.add_EngineServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    _watch_parent(loop, stopping)
    _log.info("engine_ready", extra={"fields": {"device": device.kind, "models": models}})
    await stopping.wait()
    await server.stop(DRAIN_SECONDS)
    remove_socket(socket)


def remove_socket(socket: Path) -> None:
    """Remove the socket, and its folder if that is the front's temporary one.

    The front does so itself, unless it was killed.
    """
    with suppress(OSError):
        socket.unlink(missing_ok=True)
        if socket.parent.name.startswith(SOCKET_FOLDER_PREFIX):
            shutil.rmtree(socket.parent, ignore_errors=True)  # with what was unpacked there


def _watch_parent(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Stop when standard input ends: the front holds the other end, which closes when it dies."""

    def wait_for_end() -> None:
        # not through sys.stdin: its lock, held by a daemon thread, aborts the interpreter's exit
        while os.read(STANDARD_INPUT, 4096):
            pass
        loop.call_soon_threadsafe(stopping.set)

    threading.Thread(target=wait_for_end, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
