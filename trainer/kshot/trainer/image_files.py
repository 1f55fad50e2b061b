"""Image files of a data set, read from an archive or from its extracted folder alike."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.trainer.errors import DataError

__all__ = ["ImageFiles", "find_image_files"]

Progress = Callable[[int, int], None]

# What zipfile raises for a damaged directory: also unknown versions and names that are no text.
_DAMAGED = (zipfile.BadZipFile, OSError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class ImageFiles:
    """Name the image files of one source: ``names`` are their paths in it, sorted.

    ``source`` is a ZIP archive or the folder that holds ``names``.
    """

    source: Path
    names: tuple[str, ...]

    def digest(self) -> str:
        """Name the bytes of the source by their SHA-256; a folder's digest is over its files."""
        digest = hashlib.sha256()
        if self.source.is_file():
            with self.source.open("rb") as archive:
                while block := archive.read(1 << 20):
                    digest.update(block)
            return digest.hexdigest()
        for name, data in zip(self.names, self.read(self.names), strict=True):
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()

    def read(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield the bytes of each named file; raises DataError for one that cannot be read."""
        if self.source.is_dir():
            for name in names:
                try:
                    yield (self.source / name).read_bytes()
                except OSError as error:
                    raise DataError(
                        f"cannot read {self.source / name}: {error.strerror}"
                    ) from error
            return
        with _open_archive(self.source) as archive:
            for name in names:
                try:
                    yield archive.read(name)
                except (*_DAMAGED, zlib.error, EOFError, RuntimeError) as error:
                    raise DataError(
                        f"{self.source} is damaged at {name}: {error}; get the archive again"
                    ) from error


def find_image_files(
    data_folder: Path, folder_name: str, archive_names: Sequence[str]
) -> ImageFiles:
    """List ``folder_name/<group>/<class>/*.png`` in the first archive there is, or in the folder.

    Raises DataError when the archive cannot be opened or there is neither archive nor folder.
    """
    for archive_name in archive_names:
        if (data_folder / archive_name).is_file():
            with _open_archive(data_folder / archive_name) as archive:
                listed = [name for name in archive.namelist() if _wanted(name, folder_name)]
            return ImageFiles(data_folder / archive_name, tuple(sorted(listed)))
    if (data_folder / folder_name).is_dir():
        found = (data_folder / folder_name).glob("*/*/*.png")
        listed = [path.relative_to(data_folder).as_posix() for path in found]
        return ImageFiles(
            data_folder, tuple(sorted(name for name in listed if _wanted(name, folder_name)))
        )
    raise DataError(
        f"{data_folder} holds neither {' nor '.join(archive_names)} nor a folder {folder_name}"
    )


def _wanted(name: str, folder_name: str) -> bool:
    parts = name.split("/")
    return (
        len(parts) == 4
        and parts[0] == folder_name
        and parts[3].endswith(".png")
        and not any(part.startswith(".") for part in parts)
    )


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise DataError(
            f"{path} is truncated or no ZIP archive ({error}); get the archive again"
        ) from error
