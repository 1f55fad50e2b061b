"""The channel to a server: message sizes, the calls that are retried, and their time."""

from __future__ import annotations

import json
from dataclasses import dataclass

import grpc

from kshot.client.connection.addresses import check_address, loopback
from kshot.client.connection.credentials import Credentials
from kshot.client.errors import InputError
from kshot.client.values import check_seconds

# Requests that adapt carry a request id. A second try of others would adapt again, or find done
# what the first has done.
_SAFE_TO_REPEAT = (
    "Adapt",
    "AdaptStream",
    "ReviseAdaptedModel",
    "Predict",
    "GetAdaptedModel",
    "ListAdaptedModels",
    "ExportAdaptedModel",
    "GetCapabilities",
)
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024
_MAX_REPEATED_BYTES = 64 * 1024 * 1024  # gRPC's default is 256 KiB: two photographs
_MAX_TIMEOUT_S = 366 * 24 * 3600.0  # gRPC counts nanoseconds in 64 bits from 1970 on

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "kshot.v1.AdaptationService", "method": method}
                for method in _SAFE_TO_REPEAT
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


def channel_options(host: str) -> list[tuple[str, str | int]]:
    """Return gRPC's options for calls to a host."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
        # The server limits the size of a request.
        ("grpc.max_send_message_length", -1),
        ("grpc.per_rpc_retry_buffer_size", _MAX_REPEATED_BYTES),
        # gRPC waits up to two minutes between attempts to connect, for a new channel of the process
        # too; a server that is back is found within about a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 4000),  # the time that an attempt may take
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0 if loopback(host) else 1),
    ]


def open_channel(address: str, credentials: Credentials) -> grpc.Channel:
    """Make a channel to HOST:PORT; it connects with the first call. Raises `InputError`."""
    options = channel_options(check_address(address))
    secure = credentials.channel_credentials()
    if secure is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, secure, options=options)


def open_async_channel(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """Make such a channel for the event loop that runs."""
    options = channel_options(check_address(address))
    secure = credentials.channel_credentials()
    if secure is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, secure, options=options)


def check_timeout(timeout: object) -> float:
    """Return a valid timeout in seconds, at most a year; raise `InputError` for another."""
    expected = "a number of seconds above 0"
    seconds = check_seconds("timeout", timeout, expected)
    if seconds <= 0:
        raise InputError(f"timeout: expected {expected}, got {timeout!r}")
    return min(seconds, _MAX_TIMEOUT_S)


@dataclass
class Patience:
    """The seconds that a call may take, with the questions before it; `left` of `timeout`."""

    timeout: float
    left: float

    @classmethod
    def of(cls, timeout: object) -> Patience:
        """Begin with a valid timeout; raise `InputError` for another."""
        seconds = check_timeout(timeout)
        return cls(seconds, seconds)

    def spend(self, seconds: float) -> None:
        """Take what a call took; a moment is left, in which the next one ends."""
        self.left = max(1e-3, self.left - seconds)
