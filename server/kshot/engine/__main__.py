"""`python -m kshot.engine`: started by the front, not by people."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import torch

from kshot.bundle import BundleError
from kshot.engine.adaptation import AdaptationTask, adapt
from kshot.engine.device import DeviceDescription, choose_device
from kshot.engine.models import LoadedModel, load_models
from kshot.engine.service import EngineService
from kshot.internal.v1 import engine_pb2_grpc
from kshot.learner import compute_reproducibly

DRAIN_SECONDS = 5.0
MAX_MESSAGE_BYTES = 1 << 30  # the front caps requests; weights of large networks come back
COMPUTE_THREADS = 1
STANDARD_INPUT = 0
SOCKET_FOLDER_PREFIX = "kshot-"  # of the temporary folder that the front makes


class _JsonFormatter(logging.Formatter):
    """Writes one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": "engine",
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def main() -> int:
    """Serve until SIGTERM or until the front is gone; return 1 where it cannot start."""
    arguments = _parse_arguments()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    torch.set_num_threads(COMPUTE_THREADS)
    compute_reproducibly()
    try:
        device = choose_device(arguments.device)
        models = load_models(arguments.bundle, device.device)
        for model in models.values():
            warm_up(model)
    except (BundleError, ValueError) as error:
        logging.getLogger(__name__).error("not_started", extra={"fields": {"reason": str(error)}})
        return 1
    asyncio.run(_serve(arguments.socket, models, device))
    logging.shutdown()
    os._exit(0)  # a step that hangs in its thread would hold up an ordinary exit


def warm_up(model: LoadedModel) -> None:
    """Adapt to blank images once: the first use of each operation is slow."""
    manifest = model.bundle.manifest
    way = manifest.training.way
    task = AdaptationTask(
        support=np.zeros((way, *manifest.input.shape), dtype=np.float32),
        classes=np.arange(way),
        way=way,
        step_count=min(2, manifest.limits.max_step_count),
        learning_rate=manifest.inner_loop.learning_rate,
        batch_size=manifest.default_batch_size(way),
        preconditioner=manifest.inner_loop.preconditioner,
        head=manifest.head.default,
        scope=manifest.scope.default,
        seed=0,
    )
    adapt(model, task, lambda _steps_done: None)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kshot.engine", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    return parser.parse_args()


async def _serve(socket: Path, models: dict[str, LoadedModel], device: DeviceDescription) -> None:
    service = EngineService(models, device)
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
    logging.getLogger(__name__).info(
        "engine_ready", extra={"fields": {"device": device.kind, "models": sorted(models)}}
    )
    await stopping.wait()
    await server.stop(DRAIN_SECONDS)
    service.close()
    remove_socket(socket)


def remove_socket(socket: Path) -> None:
    """Remove the socket, and its folder if that is the front's temporary one and now empty.

    The front does so itself, unless it was killed.
    """
    with suppress(OSError):
        socket.unlink(missing_ok=True)
        if socket.parent.name.startswith(SOCKET_FOLDER_PREFIX):
            socket.parent.rmdir()


def _watch_parent(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Stop when standard input ends: the front holds its other end and takes it to its grave."""

    def wait_for_end() -> None:
        # not through sys.stdin: its lock, held by a daemon thread, aborts the interpreter's exit
        while os.read(STANDARD_INPUT, 4096):
            pass
        loop.call_soon_threadsafe(stopping.set)

    threading.Thread(target=wait_for_end, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
