"""Checks of what a server keeps, and of a server that runs."""

from __future__ import annotations

from pathlib import Path

from kshot.client.client import Client
from kshot.client.errors import KshotError, PermissionDeniedError, UnauthenticatedError
from kshot.command.version import version
from kshot.operate.finding import Finding


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
