"""The process that answers HTTP: `python -m kshot.gateway`, which `kshot serve --http` starts."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import socket
import ssl
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import grpc
import uvicorn

from kshot.bundle.signals.json_log import start_logging
from kshot.gateway.app import Gateway, make_app
from kshot.gateway.connections import Admission
from kshot.gateway.listening import listen
from kshot.gateway.patience import PatientLoop, PatientProtocol
from kshot.gateway.refusals import Refusals
from kshot.gateway.renewal import Renewal, TlsFiles

_LOOK_SECONDS, _TELL_SECONDS = 2.0, 1.0
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


def main() -> None:
    """Answer until SIGTERM, or until standard input closes: then the server has ended."""
    arguments = _parser().parse_args()
    start_logging(level=arguments.log_level, process="gateway")
    refusals = Refusals()
    admission = Admission(refusals, tls=arguments.tls_cert is not None)
    sockets, address = listen(arguments.listen, admission)
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=PatientLoop) as runner:
        runner.run(_serve(arguments, sockets, address, refusals))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kshot.gateway")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--server", required=True, metavar="SOCKET", help="unix socket of gRPC")
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT", help="address of gRPC")
    parser.add_argument("--max-message-bytes", type=int, required=True)
    parser.add_argument("--grace", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--name", action="append", default=[], help="name of this host")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--client-ca", type=Path)
    parser.add_argument("--log-level", default="info")
    return parser


async def _serve(
    arguments: argparse.Namespace,
    sockets: Sequence[socket.socket],
    address: str,
    refusals: Refusals,
) -> None:
    channel = grpc.aio.insecure_channel(f"unix:{arguments.server}", options=_OPTIONS)
    gateway = Gateway(channel, arguments.max_message_bytes, refusals)
    app = make_app(gateway, arguments.name, arguments.grpc)
    config = uvicorn.Config(
        app,
        http=cast(Any, functools.partial(PatientProtocol, refusals=refusals)),
        access_log=False,
        log_config=None,
        log_level="error",  # its warnings are for each malformed request
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # whoever sends them would name any caller
        ws="none",
        timeout_graceful_shutdown=max(1, round(arguments.grace)),
        ssl_certfile=arguments.tls_cert,
        ssl_keyfile=arguments.tls_key,
        ssl_ca_certs=None if arguments.client_ca is None else str(arguments.client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if arguments.client_ca is None else ssl.CERT_REQUIRED,
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=list(sockets)))
    # Uvicorn takes SIGTERM and SIGINT; the end of the parent is like them.
    threading.Thread(target=_end_with_parent, args=[server], daemon=True).start()
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        print(json.dumps({"http": address}), flush=True)
    behind = [
        asyncio.ensure_future(_renew(config.ssl, arguments)),
        asyncio.ensure_future(_tell(refusals)),
    ]
    try:
        await serving
    finally:
        for task in behind:
            task.cancel()
        await asyncio.gather(*behind, return_exceptions=True)
        await channel.close()


async def _tell(refusals: Refusals) -> None:
    """Tell the server, which reads standard output, what was refused."""
    try:
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            _tell_now(refusals)
    finally:
        _tell_now(refusals)


def _tell_now(refusals: Refusals) -> None:
    if taken := refusals.take():
        with suppress(BrokenPipeError):  # the server has ended
            print(json.dumps({"refusals": taken}), flush=True)


def _end_with_parent(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True


async def _renew(context: ssl.SSLContext | None, arguments: argparse.Namespace) -> None:
    """Take files that have changed for new connections."""
    if context is None:
        return
    files = TlsFiles(arguments.tls_cert, arguments.tls_key, arguments.client_ca)
    renewal = Renewal(context, files)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        renewal.look()


if __name__ == "__main__":
    main()
