from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SCRIPT = Path(__file__).parents[2] / "deploy/healthcheck.py"
Status = health_pb2.HealthCheckResponse


@pytest.fixture
def servicer() -> health.HealthServicer:
    return health.HealthServicer()


@pytest.fixture
def port(servicer: health.HealthServicer) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0).wait()


def _check(listen: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT],
        env=os.environ | {"KSHOT_LISTEN": listen},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])  # noqa: S104 -- asked on loopback
def test_a_server_that_serves_is_healthy(
    servicer: health.HealthServicer, port: int, host: str
) -> None:
    servicer.set("", Status.SERVING)

    ran = _check(f"{host}:{port}")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_server_that_starts_or_stops_is_not(servicer: health.HealthServicer, port: int) -> None:
    servicer.set("", Status.NOT_SERVING)

    ran = _check(f"127.0.0.1:{port}")

    assert ran.returncode == 1
    assert ran.stderr == f"127.0.0.1:{port}: NOT_SERVING\n"


def test_no_server_is_not_healthy() -> None:
    with socket.socket() as taken:  # bound, so that nobody else listens there either
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        ran = _check(f"127.0.0.1:{port}")

    assert ran.returncode == 1
    assert ran.stderr.startswith(f"127.0.0.1:{port}: UNAVAILABLE: ")
    assert ran.stderr.count("\n") == 1
