"""Checks of what a server keeps, and of a server that runs."""

from __future__ import annotations

import json
import ssl
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path

from kshot.client.client import Client
from kshot.client.connection.credentials import Credentials
from kshot.client.connection.probe import speaks_tls
from kshot.client.errors import KshotError, PermissionDeniedError, UnauthenticatedError
from kshot.command.version import version
from kshot.operate.finding import Finding

_MOST_BYTES = 2**16
_AWAY = (503, 504)
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- where to ask, not to listen


def check_folder_of_store(folder: Path) -> Finding:
    """Tell whether a store is healthy; reads all of it, unless its server runs."""
    check = "store"
    if not folder.exists():
        return Finding(check, "ok", f"{folder}: none yet; `kshot serve` makes it")
    try:
        from kshot.server.errors import StartError
        from kshot.server.upkeep.inspection import check_store
    except ModuleNotFoundError as error:
        return Finding(check, "ok", f"{folder}: not checked, as {error.name} is not installed")
    try:
        report = check_store(folder)
    except StartError as error:
        if "in use" in str(error):
            return Finding(
                check, "ok", f"{folder}: in use by its server, which checks what it reads"
            )
        return Finding(check, "problem", str(error), f"kshot store check {folder}")
    counts = ", ".join(f"{count} {state}" for state, count in sorted(report.counts.items()))
    found = f"{folder}: {counts or 'no adapted models'}"
    if report.sound:
        return Finding(check, "ok", found)
    return Finding(
        check, "problem", f"{found} {report.index}".rstrip(), f"kshot store repair {folder}"
    )


def check_server(client: Client, *, named: bool) -> Finding:
    """Tell whether a server answers, with which version; `named` tells that there should be one."""
    check = "server"
    try:
        found = client.capabilities()
    except (UnauthenticatedError, PermissionDeniedError) as error:
        remedy = "pass the key with --api-key-file, or set KSHOT_API_KEY_FILE"
        return Finding(check, "problem", f"{client.address}: {error}", remedy)
    except KshotError as error:
        if not named:
            return Finding(check, "ok", f"none at {client.address}")
        return Finding(check, "problem", str(error), "start `kshot serve`, or check --server")
    models = ", ".join(f"{each.model}@{each.version}" for each in found.models.values())
    words = f"{client.address}: kshot {found.server_version} with {models or 'no models'}"
    if not found.engine_count:
        remedy = "it starts engines again by itself; its log has the reason (engine_exited)"
        return Finding(check, "problem", f"{words}, but no engine can adapt now", remedy)
    if found.server_version != version():
        remedy = "install the same version on both sides"
        return Finding(check, "warning", f"{words}; this client is kshot {version()}", remedy)
    return Finding(check, "ok", words)


def check_http(
    host: str, port: int, credentials: Credentials, *, named: bool, timeout: float
) -> Finding:
    """Tell whether `kshot serve --http` answers at an address, and reaches its server.

    `named` tells that it should. The key is left to the check of the server, whose keys are those
    of HTTP.
    """
    check, place = "HTTP port", f"{host}:{port}"
    asked = _ANYWHERE.get(host, host)
    tls = speaks_tls(asked, port)
    if tls is None:
        if not named:
            return Finding(check, "ok", f"{place}: nothing listens")
        remedy = f"start `kshot serve --http {place}`, or check --http"
        return Finding(check, "problem", f"{place}: nothing listens", remedy)
    others = f"end what listens there (ss -ltnp), or kshot serve --http {host}:{port + 1}"
    foreign = Finding(
        check,
        "warning" if named else "ok",
        f"{place}: another program listens",
        others if named else "",
    )
    try:
        with closing(_connect(asked, port, credentials if tls else None, timeout)) as connection:
            page = _get(connection, "/v1/server")
            if page.status == 421:
                remedy = f"kshot serve --http-host {host}"
                found = f"{place}: {host} is not a name that its server answers to"
                return Finding(check, "problem", found, remedy)
            told = json.loads(page.read(_MOST_BYTES))
            if page.status != 200 or "grpc" not in told:
                return foreign
            behind = _get(connection, f"/v1/capabilities?timeout={timeout:g}")
    except ssl.SSLCertVerificationError as error:
        remedy = "pass the authority's certificates with --ca, or renew --tls-cert"
        return Finding(check, "problem", f"{place}: {error.verify_message}", remedy)
    except ssl.SSLError as error:
        remedy = "open it with a certificate of --client-ca; doctor shows none"
        return Finding(check, "warning", f"{place}: TLS: {error.reason}", remedy)
    except (OSError, HTTPException, ValueError):
        return foreign
    if behind.status in _AWAY:
        remedy = "look into the log of the server; it starts its HTTP process again by itself"
        return Finding(check, "problem", f"{place}: answers, but not for its server", remedy)
    return Finding(check, "ok", f"{place}: kshot, the same server as {told['grpc']} for gRPC")


def _connect(
    host: str, port: int, credentials: Credentials | None, timeout: float
) -> HTTPConnection:
    if credentials is None:
        return HTTPConnection(host, port, timeout=timeout)
    roots = None if credentials.roots is None else credentials.roots.decode("ascii", "ignore")
    context = ssl.create_default_context(cadata=roots)
    return HTTPSConnection(host, port, timeout=timeout, context=context)


def _get(connection: HTTPConnection, path: str) -> HTTPResponse:
    connection.request("GET", path)
    return connection.getresponse()
