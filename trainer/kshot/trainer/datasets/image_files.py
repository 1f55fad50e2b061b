"""Image files of a data set, read from an archive or from its extracted folder alike."""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kshot.trainer.errors import DataError, reading

ReadFile = Callable[[str], bytes]

# What zipfile raises for a damaged directory, unknown versions and undecodable names among them.
_DAMAGED = (zipfile.BadZipFile, OSError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one source: `names` are their paths in it, sorted.

    `source` is a ZIP archive or the folder that holds `names`.
    """

    source: Path
    names: tuple[str, ...]

    def fingerprint(self) -> str:
        """Identify the content: by an archive's SHA-256, by a folder's listing.

        The listing has the name, the size and the modification time of each file; reading tens of
        thousands of small files at every start would take longer than all else.
        """
        if self.source.is_file():
            return file_digest(self.source)
        digest = hashlib.sha256()
        for name in self.names:
            with reading(self.source / name):
                status = (self.source / name).stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def content_digest(self) -> str:
        """Return the SHA-256 over the names and bytes of all files."""
        digest = hashlib.sha256()
        with self.opened() as read:
            for name in self.names:
                content = read(name)
                digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    @contextmanager
    def opened(self) -> Iterator[ReadFile]:
        """Yield a function that returns the bytes of a named file, in any thread.

        It raises `DataError` for a file that cannot be read.
        """
        if self.source.is_dir():
            yield self._read_file
            return
        with _open_archive(self.source) as archive:

            def read(name: str) -> bytes:
                try:
                    return archive.read(name)
                except (*_DAMAGED, zlib.error, EOFError, RuntimeError, KeyError) as error:
                    raise DataError(
                        f"{self.source} is damaged at {name}: {error}; get the archive again"
                    ) from error

            yield read

    def _read_file(self, name: str) -> bytes:
        with reading(self.source / name):
            return (self.source / name).read_bytes()


def find_image_files(
    data_folder: Path, folder_name: str, archive_names: Sequence[str]
) -> ImageFiles:
    """List `folder_name/<group>/<class>/*.png` in the first archive found, or in the folder.

    Raises `DataError` when the archive cannot be opened or there is neither archive nor folder.
    """
    for archive_name in archive_names:
        if (data_folder / archive_name).is_file():
            return list_archive(data_folder / archive_name, folder_name)
    if (data_folder / folder_name).is_dir():
        found = (data_folder / folder_name).glob("*/*/*.png")
        listed = [path.relative_to(data_folder).as_posix() for path in found]
        return ImageFiles(data_folder, _drawings(listed, folder_name))
    if not data_folder.is_dir():
        raise DataError(f"data folder {data_folder} does not exist")
    raise DataError(
        f"{data_folder} has neither {' nor '.join(archive_names)} nor a folder {folder_name}"
    )


def list_archive(path: Path, folder_name: str) -> ImageFiles:
    """List `folder_name/<group>/<class>/*.png` in a ZIP archive; raises `DataError`."""
    with _open_archive(path) as archive:
        return ImageFiles(path, _drawings(archive.namelist(), folder_name))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; raises `DataError` when it cannot be read."""
    with reading(path), path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _drawings(names: Sequence[str], folder_name: str) -> tuple[str, ...]:
    """Return the names of PNG files at the right depth, sorted, without hidden ones."""
    # As `images_background/Greek/character01/0394_01.png`.
    drawing = re.compile(rf"{re.escape(folder_name)}(/[^./][^/]*){{3}}(?<=\.png)")
    return tuple(sorted(filter(drawing.fullmatch, names)))


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise DataError(
            f"{path}: truncated, or not a ZIP archive ({error}); get the archive again"
        ) from error
