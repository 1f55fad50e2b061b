"""The settings of gRPC's own transport: what it bounds below the calls."""

from __future__ import annotations

import logging

from kshot.server.config import ServerConfig
from kshot.server.limits.descriptors import connection_limit, raise_limit

# Calls to the standard services come on top of those to ours.
SPARE_STREAMS = 64
# Seconds in which a new connection must begin to speak HTTP/2.
_HANDSHAKE_SECONDS = 10
# Calls that run when their connection has reached its age may take this long to end.
_AGE_GRACE_SECONDS = 600
# Bytes of a message that may come before the server reads it.
_UNREAD_BYTES = 65_535
# Calls that wait for Python to see them. gRPC ends those that come when there are more, whoever
# sends them, with a bare CANCELLED; its own limits (1,000 and 3,000) are within reach of 60
# connections that open and reset a hundred calls each. One takes about 15 KB.
_PENDING_CALLS, _MOST_PENDING_CALLS = 20_000, 30_000


def transport_options(config: ServerConfig) -> list[tuple[str, int]]:
    """Return the options of the server's transport; raises the limit of open files."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        # Notice clients that vanish or read no bytes, and let clients ping every 10 seconds.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.max_allowed_incoming_connections", connection_limit(raise_limit())),
        ("grpc.server_handshake_timeout_ms", 1000 * _HANDSHAKE_SECONDS),
        ("grpc.max_connection_idle_ms", round(1000 * config.max_connection_idle)),
        ("grpc.max_connection_age_ms", round(1000 * config.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", 1000 * _AGE_GRACE_SECONDS),
        # Clients wait with more; those that do not wait are refused.
        ("grpc.max_concurrent_streams", 4 * config.max_connection_calls + SPARE_STREAMS),
        ("grpc.server.max_pending_requests", _PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING_CALLS),
        ("grpc.http2.lookahead_bytes", _UNREAD_BYTES),
        ("grpc.http2.bdp_probe", 0),
    ]


def quiet_grpc() -> None:
    """Log without a traceback that a client left before it had its answer."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_left)


def _left(record: logging.LogRecord) -> bool:
    if record.msg.startswith("ExecuteBatchError"):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args, record.exc_info = "client_left", (), None
    return True
