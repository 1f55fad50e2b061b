"""A file that is written whole, or stays what it was."""

from contextlib import suppress
from pathlib import Path

from kshot.bundle import sync_folder, write_synced

__all__ = ["replace_file"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside ``path``, wait until it is on disk, and rename it over ``path``.

    The name of the file beside it is always the same, so that killed writes do not pile up. Raises
    ``OSError``; what was at ``path`` before is then untouched.
    """
    temporary = path.with_suffix(".partial")
    try:
        temporary.unlink(missing_ok=True)  # a killed training may have left one
        write_synced(temporary, content)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
