"""Adapted models as files: written whole to where the caller wants, and read to be imported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kshot.client.errors import DataLossError, InputError
from kshot.local import destination
from kshot.v1 import adaptation_pb2 as wire

_MOST_BYTES = 2**31  # of a file to import; a server takes fewer
_CHUNK_BYTES = 1_000_000

TellBytes = Callable[[int, int], None]
"""Is called with the bytes that have gone over and those of the file."""


def write_export(
    parts: Iterable[wire.ExportAdaptedModelResponse], path: Path, progress: TellBytes | None = None
) -> Path:
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
                if progress is not None:
                    progress(size_bytes, header.size_bytes)
            if (size_bytes, digest.hexdigest()) != (header.size_bytes, header.sha256):
                raise DataLossError(
                    f"the export of {header.adapted_model.id} arrived damaged: expected "
                    f"{header.size_bytes} bytes with SHA-256 {header.sha256}, got {size_bytes} "
                    f"bytes with {digest.hexdigest()}"
                )
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return path


def read_import(
    path: Path, header: wire.ImportHeader, progress: TellBytes | None = None
) -> Iterator[wire.ImportAdaptedModelRequest]:
    """Return the messages that send a file: `header` with its digest, then chunks.

    Raises `InputError` if it cannot be read, before there is a message.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not 0 < len(content) <= _MOST_BYTES:
        got = "more" if content else "an empty file"
        raise InputError(f"{path}: expected a file of up to {_MOST_BYTES} bytes, got {got}")
    header.sha256 = hashlib.sha256(content).hexdigest()
    return _parts(content, header, progress)


def _parts(
    content: bytes, header: wire.ImportHeader, progress: TellBytes | None
) -> Iterator[wire.ImportAdaptedModelRequest]:
    yield wire.ImportAdaptedModelRequest(header=header)
    for first in range(0, len(content), _CHUNK_BYTES):
        chunk = content[first : first + _CHUNK_BYTES]
        yield wire.ImportAdaptedModelRequest(chunk=chunk)
        if progress is not None:  # it is asked for more: this has gone
            progress(first + len(chunk), len(content))
