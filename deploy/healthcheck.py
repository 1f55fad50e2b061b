"""The container's health probe: exit 0 if the server is SERVING, else 1 with one line."""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_LISTEN = "127.0.0.1:50051"
TIMEOUT_SECONDS = 3.0
# The probe asks a server that listens on all addresses on loopback.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104 -- asked, not listened on


def main() -> int:
    """Ask the server at `KSHOT_LISTEN`; return the exit code."""
    host, _, port = os.environ.get("KSHOT_LISTEN", DEFAULT_LISTEN).rpartition(":")
    address = f"{_LOOPBACK.get(host, host)}:{port}"
    # The server is on this machine: ignore proxies of the environment.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS
            )
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        print(f"{address}: {name}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
