"""Writes an exported model to disk, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kshot.client.errors import DataLossError, InputError
from kshot.v1 import adaptation_pb2 as wire


def write_export(parts: Iterable[wire.ExportAdaptedModelResponse], path: Path) -> Path:
    """Write the streamed file beside `path`, check its digest, then give it its name.

    Raises `DataLossError` if the bytes are not those announced, `InputError` if the file cannot
    be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            header, digest, size_bytes = wire.ExportHeader(), hashlib.sha256(), 0
            for part in parts:
                if part.HasField("header"):
                    header = part.header
                digest.update(part.chunk)
                size_bytes += file.write(part.chunk)
            if (size_bytes, digest.hexdigest()) != (header.size_bytes, header.sha256):
                raise DataLossError(
                    f"the export of {header.adapted_model.id} arrived damaged: expected "
                    f"{header.size_bytes} bytes with SHA-256 {header.sha256}, got {size_bytes} "
                    f"bytes with {digest.hexdigest()}"
                )
            file.flush()
            os.fsync(file.fileno())
            # mkstemp gives 0600; an ordinary file has what the umask leaves.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _umask() -> int:
    """Read the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
