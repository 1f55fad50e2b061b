"""Writes an exported model to the place that the caller names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from kshot.client.errors import DataLossError, InputError
from kshot.local import destination
from kshot.v1 import adaptation_pb2 as wire


def write_export(parts: Iterable[wire.ExportAdaptedModelResponse], path: Path) -> Path:
    """Write the streamed file, whole and with the announced digest, or not at all.

    What may be at `path` is said in `kshot.local.destination`; nothing is asked for before that is
    known. Raises `DataLossError` if the bytes are not those announced, `InputError` if the file
    cannot be written.
    """
    try:
        with destination(path) as file:
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
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return path
