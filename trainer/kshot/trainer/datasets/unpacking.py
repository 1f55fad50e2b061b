"""Archives of image folders, unpacked once into the cache."""

import hashlib
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from kshot.bundle import cache_folder
from kshot.trainer.datasets.image_files import file_digest
from kshot.trainer.errors import DataError, reading

# What tarfile raises for a damaged or truncated archive, of any compression.
_DAMAGED = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError)


def unpacked(archives: Sequence[Path]) -> Path:
    """Return the folder that holds what these tar archives hold, of any compression.

    They are unpacked together when this is first called with these files. Raises `DataError` for
    an archive that cannot be read, and when the cache cannot be written.
    """
    digests = " ".join(file_digest(archive) for archive in archives)
    name = f"unpacked-{hashlib.sha256(digests.encode()).hexdigest()[:32]}"
    folder = cache_folder() / name
    if folder.exists():
        return folder
    with reading(cache_folder()):
        cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache_folder()))
    try:
        for archive in archives:
            _unpack(archive, partial)
        with reading(folder):
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():  # else another process unpacked the same files
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    except _DAMAGED as error:
        raise DataError(
            f"{archive}: truncated, or not a tar archive ({error}); get the archive again"
        ) from error
    except OSError as error:
        raise DataError(f"cannot unpack {archive} into {folder}: {error.strerror}") from error
