from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme
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


Probe = Callable[..., tuple[int, str]]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Probe:
    """Run the script in this process, which is faster; return its exit code and what it said."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(listen: str, **settings: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            for name, value in (settings | {"KSHOT_LISTEN": listen}).items():
                patch.setenv(name, value)
            code = main()
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err

    return run


@dataclass(frozen=True)
class Secured:
    """A server with TLS, and the variables of its container."""

    port: int
    settings: dict[str, str]


@contextmanager
def secured(
    servicer: health.HealthServicer, folder: Path, names: Sequence[str], *, clients: bool = False
) -> Iterator[Secured]:
    """Serve with a certificate for some names; `clients` must have one too."""
    ca = trustme.CA()
    own, probe = ca.issue_cert(*names), ca.issue_cert("probe")
    files = {name: folder / name for name in ("tls.pem", "probe.pem", "probe.key")}
    chain = b"".join(part.bytes() for part in own.cert_chain_pems)
    files["tls.pem"].write_bytes(chain)
    probe.cert_chain_pems[0].write_to_path(files["probe.pem"])
    probe.private_key_pem.write_to_path(files["probe.key"])
    settings = {"KSHOT_TLS_CERT": str(files["tls.pem"])}
    pair, roots = (own.private_key_pem.bytes(), chain), ca.cert_pem.bytes()
    if clients:
        settings["KSHOT_CLIENT_CA"] = "ca.pem"
        credentials = grpc.ssl_server_credentials([pair], roots, True)
    else:
        credentials = grpc.ssl_server_credentials([pair])
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield Secured(port, settings)
    server.stop(0).wait()


@pytest.mark.parametrize("names", [["kshot.example.org"], ["*.example.org", "10.0.0.9"]])
def test_a_server_with_tls_is_asked_by_its_own_name(
    servicer: health.HealthServicer, probe: Probe, tmp_path: Path, names: list[str]
) -> None:
    """Its certificate is hardly ever for the loopback address that the probe asks."""
    servicer.set("", Status.SERVING)
    with secured(servicer, tmp_path, names) as server:
        assert probe(f"0.0.0.0:{server.port}", **server.settings) == (0, "")


def test_a_probe_shows_a_certificate_where_clients_must(
    servicer: health.HealthServicer, probe: Probe, tmp_path: Path
) -> None:
    servicer.set("", Status.SERVING)
    files = {
        "KSHOT_CERT": str(tmp_path / "probe.pem"),
        "KSHOT_CERT_KEY": str(tmp_path / "probe.key"),
    }
    with secured(servicer, tmp_path, ["kshot"], clients=True) as server:
        with_one = probe(f"127.0.0.1:{server.port}", **server.settings, **files)
        without = probe(f"127.0.0.1:{server.port}", **server.settings)

    assert with_one == (0, "")
    assert without[0] == 1
    assert without[1].endswith(
        "; set KSHOT_CERT and KSHOT_CERT_KEY to a certificate for the probe\n"
    )
    assert without[1].count("\n") == 1


def test_a_certificate_that_is_not_the_server_s_is_said(
    servicer: health.HealthServicer, probe: Probe, port: int, tmp_path: Path
) -> None:
    """Nor is a file that is missing, or a server without TLS."""
    (tmp_path / "other.pem").write_bytes(trustme.CA().cert_pem.bytes())
    with secured(servicer, tmp_path, ["kshot"]) as server:
        listen = f"127.0.0.1:{server.port}"
        for place, file, words in (
            (listen, "other.pem", "certificate verify failed"),
            (listen, "missing.pem", "No such file"),
            (f"127.0.0.1:{port}", "other.pem", ""),
        ):
            code, said = probe(place, KSHOT_TLS_CERT=str(tmp_path / file))
            assert (code, said.count("\n")) == (1, 1)
            assert said.startswith(f"{place}: ") and words in said


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
