"""Checks of the machine: the cache, the disk, the store and the port."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from kshot.operate.finding import Finding

_LOW_BYTES, _LEAST_BYTES = 2 * 10**9, 2 * 10**8
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> Path:
    """Return where compiled steps are kept."""
    if own := os.environ.get("KSHOT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kshot"


def check_cache(folder: Path) -> Finding:
    """Tell whether compiled steps can be kept: their folder must be this user's alone."""
    check, remedy = "cache", f"make it yours (chown), then chmod 700 {folder}; or set KSHOT_CACHE"
    if not folder.exists():
        above = _existing(folder)
        if os.access(above, os.W_OK):
            return Finding(check, "ok", f"{folder} is made when it is needed")
        found = f"{folder} cannot be made: {above} is not writable"
        return Finding(check, "warning", found, "set KSHOT_CACHE to a folder that you can write to")
    status = folder.stat()
    if not folder.is_dir():
        return Finding(check, "problem", f"{folder} is not a directory", remedy)
    if status.st_uid != os.getuid() or status.st_mode & _OTHERS_MAY_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        found = f"{folder}: expected user {os.getuid()} and mode 700, got user {status.st_uid} and"
        return Finding(check, "problem", f"{found} mode {mode:o}: steps are not kept", remedy)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(check, "warning", f"{folder} is not writable", f"chmod 700 {folder}")
    return Finding(check, "ok", str(folder))


def check_disk(folders: tuple[Path, ...]) -> Iterator[Finding]:
    """Yield how much room each file system of the folders has."""
    seen: set[int] = set()
    for folder in folders:
        place = _existing(folder)
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        found = f"{free / 1e9:.1f} GB free for {folder}"
        if free < _LOW_BYTES:
            remedy = "delete adapted models (kshot models delete), or move the folder"
            yield Finding("disk", "problem" if free < _LEAST_BYTES else "warning", found, remedy)
        else:
            yield Finding("disk", "ok", found)


def check_port(host: str, port: int, *, served: bool) -> Finding:
    """Tell whether a server could listen; `served` tells that kshot does already."""
    check, place = "port", f"{host}:{port}"
    if served:
        return Finding(check, "ok", f"{place}: a kshot server listens")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        remedy = f"end what listens there (ss -ltnp), or kshot serve --listen {host}:{port + 1}"
        return Finding(check, "warning", f"{place} cannot be used: {error.strerror}", remedy)
    return Finding(check, "ok", f"{place} is free")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
