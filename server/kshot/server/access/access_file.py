"""The access file: who may call, and the limits of tenants. One JSON document of mode 600."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from kshot.bundle import replacing
from kshot.bundle.document import DocumentError, expect, parse, plain, read_json
from kshot.server.access.key import Key
from kshot.server.access.limits import Limits
from kshot.server.access.names import TENANT_RULE
from kshot.server.errors import StartError

_OTHERS = 0o077
_OTHERS_MAY_USE = 0o007
_WRITE = 0o222
_MAX_BYTES = 2**24

Tenants: TypeAlias = Mapping[str, Limits]
Signature: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class _Document:
    schema_version: Literal[1]
    keys: tuple[Key, ...]
    tenants: Tenants | None = None


@dataclass(frozen=True)
class AccessFile:
    """Keys, in the order of their creation, and the limits of tenants by name."""

    keys: tuple[Key, ...] = ()
    tenants: Tenants = field(default_factory=dict)


def read_access(path: Path) -> tuple[AccessFile, Signature]:
    """Read the file, and return what tells it from another at the same path.

    Raises `StartError` if it cannot be read, is neither this user's alone nor a secret that root
    mounts for a group of this process, or is damaged.
    """
    try:
        content, signature = _read_private(path)
        return _parse(path, content), signature
    except FileNotFoundError as error:
        raise StartError(
            f"{path}: no such file; `kshot keys create --access {path} --tenant NAME` makes it"
        ) from error
    except OSError as error:
        raise StartError(f"{path}: cannot read the access file: {error.strerror}") from error


def change_access(
    path: Path, edit: Callable[[AccessFile], AccessFile], *, create: bool = False
) -> AccessFile:
    """Replace the file by what `edit` returns for it, and return that; changes take turns.

    Running servers see the old file or the new one. Raises `StartError`, as `read_access` does.
    """
    path = path.resolve()
    try:
        with replacing(path) as file:
            os.fchmod(file.fileno(), 0o600)
            known = AccessFile() if create and not path.exists() else read_access(path)[0]
            changed = edit(known)
            document = plain(_Document(1, changed.keys, changed.tenants))
            content = json.dumps(document, indent=2)
            _parse(path, content.encode())
            file.write(content.encode() + b"\n")
    except OSError as error:
        raise StartError(f"{path}: cannot write the access file: {error.strerror}") from error
    return changed


def signature_of(status: os.stat_result) -> Signature:
    """Return what tells a file from another at the same path."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read_private(path: Path) -> tuple[bytes, Signature]:
    # A pipe in the place of the file must not hold up the server.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StartError(f"{path}: expected a file, got something else; name another path")
        if not (_own(status) or _mounted(status)):
            raise StartError(
                f"{path}: expected a file of user {os.geteuid()} that nobody else may read or "
                f"write, got user {status.st_uid} and mode {stat.S_IMODE(status.st_mode):o}; chown "
                "it, and chmod it to 600 (a mounted secret of root: to 440, with a group of the "
                "server)"
            )
        return file.read(_MAX_BYTES), signature_of(status)


def _own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS


def _mounted(status: os.stat_result) -> bool:
    """Tell whether root lets this process read a file by its group, and nobody write to it.

    So a secret is mounted in Kubernetes. Root can read and replace any file anyway, and whoever is
    in the group besides reads digests, of which no key can be made.
    """
    closed = status.st_uid == 0 and not status.st_mode & (_OTHERS_MAY_USE | _WRITE)
    return closed and status.st_gid in {os.getegid(), *os.getgroups()}


def _parse(path: Path, content: bytes) -> AccessFile:
    try:
        return _access_file(read_json(content))
    except DocumentError as error:
        raise StartError(
            f"{path}: not an access file: {error}; put back a copy, or move it away and create "
            "keys anew"
        ) from error


def _access_file(values: object) -> AccessFile:
    tenants = values.get("tenants") if isinstance(values, dict) else None
    for name in tenants if isinstance(tenants, dict) else ():  # before an error shows it
        expect(bool(TENANT_RULE.holds(name)), "tenants", TENANT_RULE.expected, ascii(name))
    document = parse(_Document, values)
    for prefix, count in Counter(key.prefix for key in document.keys).items():
        expect(count == 1, "keys", "different prefixes", f"{prefix} {count} times")
    return AccessFile(document.keys, document.tenants or {})
