"""The container's health probe: exit 0 if the server is SERVING, else 1 with one line.

It reads the server's own settings: KSHOT_LISTEN, and KSHOT_TLS_CERT where the server speaks TLS.
Where the server wants certificates of clients, KSHOT_CERT and KSHOT_CERT_KEY are the probe's.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_LISTEN = "127.0.0.1:50051"
TIMEOUT_SECONDS = 3.0
# The probe asks a server that listens on all addresses on loopback.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104 -- asked, not listened on
_CLIENT_CERT_REMEDY = "set KSHOT_CERT and KSHOT_CERT_KEY to a certificate for the probe"


def main() -> int:
    """Ask the server at `KSHOT_LISTEN`; return the exit code."""
    host, _, port = os.environ.get("KSHOT_LISTEN", DEFAULT_LISTEN).rpartition(":")
    host = _LOOPBACK.get(host, host)
    address = f"{host}:{port}"
    try:
        with open_channel(host, port) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS
            )
    except grpc.RpcError as error:
        return _unhealthy(address, f"{error.code().name}: {error.details()}{_remedy()}")
    except (OSError, ValueError) as error:  # a file, a handshake, or nobody listens
        return _unhealthy(address, str(error))
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return _unhealthy(address, health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0


def open_channel(host: str, port: str) -> grpc.Channel:
    """Make a channel that trusts the server's own certificate, whatever its names are."""
    # The server is on this machine: ignore proxies of the environment.
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    certificate = os.environ.get("KSHOT_TLS_CERT")
    if not certificate:
        return grpc.insecure_channel(f"{host}:{port}", options=options)
    own = [os.environ.get(name) or "" for name in ("KSHOT_CERT_KEY", "KSHOT_CERT")]
    key, chain = (Path(path).read_bytes() if path else None for path in own)
    credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes(), key, chain)
    name = name_of_server(host.strip("[]"), int(port), certificate)
    options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(f"{host}:{port}", credentials, options=options)


def name_of_server(host: str, port: int, certificate: str) -> str:
    """Return a name that the server's certificate is for; `certificate` is the file it uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    with (
        socket.create_connection((host, port), TIMEOUT_SECONDS) as connection,
        context.wrap_socket(connection) as secured,
    ):
        described = secured.getpeercert() or {}
    names = [str(value) for _kind, value in described.get("subjectAltName", ())]
    return names[0].replace("*", "probe", 1) if names else host


def _remedy() -> str:
    wanted = os.environ.get("KSHOT_CLIENT_CA") and not os.environ.get("KSHOT_CERT")
    return f"; {_CLIENT_CERT_REMEDY}" if wanted else ""


def _unhealthy(address: str, why: str) -> int:
    print(f"{address}: {' '.join(why.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
