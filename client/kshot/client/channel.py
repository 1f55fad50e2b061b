"""The channel to a server: message sizes, the calls that are retried, and their time."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import grpc

from kshot.client.errors import InputError

# Without `Adapt` and `AdaptAndPredict`: a second try would adapt a second time.
_SAFE_TO_REPEAT = (
    "Predict",
    "GetAdaptedModel",
    "ListAdaptedModels",
    "ExportAdaptedModel",
    "GetCapabilities",
)
_MAX_RESPONSE_BYTES = 64 * 1024 * 1024

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


def open_channel(address: str) -> grpc.Channel:
    """Make a channel to HOST:PORT; it connects with the first call. Raises `InputError`."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65536):
        raise InputError(f"server address: expected HOST:PORT, got {address!r}")
    return grpc.insecure_channel(
        address,
        options=[
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            ("grpc.max_receive_message_length", _MAX_RESPONSE_BYTES),
            # The server limits the size of a request.
            ("grpc.max_send_message_length", -1),
        ],
    )


def check_timeout(timeout: float) -> float:
    """Return a valid timeout in seconds; raise `InputError` for another."""
    try:
        if 0 < timeout < math.inf:
            return timeout
    except TypeError:
        pass
    raise InputError(f"timeout: expected a number of seconds above 0, got {timeout!r}")


@dataclass
class Patience:
    """The seconds that a call may take, with the questions before it; `left` of `timeout`."""

    timeout: float
    left: float

    @classmethod
    def of(cls, timeout: float) -> Patience:
        """Begin with a valid timeout; raise `InputError` for another."""
        return cls(check_timeout(timeout), timeout)

    def spend(self, seconds: float) -> None:
        """Take what a call took; a moment is left, in which the next one ends."""
        self.left = max(1e-3, self.left - seconds)
