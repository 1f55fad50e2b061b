"""A port that answers Prometheus, with few threads and little patience."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from socketserver import ThreadingTCPServer
from typing import Any

from kshot.server.errors import StartError
from kshot.server.event_log import LOGGER

_PATH = "/metrics"
_MOST_CONNECTIONS = 8
# For a whole request, and for each part of an answer that a client reads.
_SECONDS = 10.0

Scrape = Callable[[str], tuple[str, bytes]]


class MetricsPort:
    """Serves `scrape(accept)` at /metrics in threads of its own.

    Of nine connections the oldest is closed, so slow ones never keep others out; one that sends or
    reads nothing for ten seconds is closed as well.
    """

    def __init__(self, host: str, port: int, scrape: Scrape) -> None:
        """Listen; raise `StartError` if the address cannot be had."""
        bare = host.removeprefix("[").removesuffix("]")
        try:
            self._server = _Server((bare, port), _handler(scrape))
        except OSError as error:
            problem = f"metrics: {host}:{port}: {error.strerror or error}"
            raise StartError(f"{problem}; name another address; port 0 picks a free one") from error
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="kshot-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more; answers that are under way may break off."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        self._open: dict[socket, None] = {}
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- socketserver's types
        """Answer in a thread; close the oldest connection if there are too many."""
        oldest = next(iter(self._open), None)
        if len(self._open) >= _MOST_CONNECTIONS and oldest is not None:
            self._open.pop(oldest, None)
            with suppress(OSError):  # it has just ended
                oldest.shutdown(SHUT_RDWR)
        self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 -- socketserver's type
        """Close a connection that has been answered."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- socketserver's types
        """Say nothing of clients that have left."""


def _handler(scrape: Scrape) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS
        server_version, sys_version = "kshot", ""

        def do_GET(self) -> None:
            """Answer a scrape."""
            if self.path.partition("?")[0] != _PATH:
                self.send_error(404)
                return
            try:
                content_type, content = scrape(self.headers.get("Accept", ""))
            except Exception:
                LOGGER.exception("failure")
                self.send_error(500)
                return
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            """Log nothing: scrapes are many and alike."""

    return Handler
