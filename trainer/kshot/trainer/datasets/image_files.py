"""Image files of a data set, read from an archive or from its extracted folder alike."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kshot.trainer.datasets.decoding import ReadFile
from kshot.trainer.errors import DataError

__all__ = [
    "ImageFiles",
    "file_digest",
    "find_image_files",
    "list_archive",
    "list_class_folders",
]

# What zipfile raises for a damaged directory: also unknown versions and names that are no text.
_DAMAGED = (zipfile.BadZipFile, OSError, NotImplementedError, ValueError)
# What `kshot.bundle` decodes, and pictures that would otherwise go missing without a word.
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".pgm", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageFiles:
    """Name the image files of one source: ``names`` are their paths in it, sorted.

    ``source`` is a ZIP archive or the folder that holds ``names``.
    """

    source: Path
    names: tuple[str, ...]

    def fingerprint(self) -> str:
        """Tell changed files from known ones: by an archive's SHA-256, by a folder's listing.

        The listing has each file's name, size in bytes and time of change; to read tens of
        thousands of small files at every start would take longer than all else.
        """
        if self.source.is_file():
            return file_digest(self.source)
        digest = hashlib.sha256()
        for name in self.names:
            try:
                status = (self.source / name).stat()
            except OSError as error:
                raise DataError(f"cannot read {self.source / name}: {error.strerror}") from error
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def content_digest(self) -> str:
        """Return the SHA-256 over names and bytes, whatever holds them and in what order."""
        digest = hashlib.sha256()
        with self.opened() as read:
            for name in self.names:
                content = read(name)
                digest.update(f"{name}\0{len(content)}\0".encode())
                digest.update(content)
        return digest.hexdigest()

    @contextmanager
    def opened(self) -> Iterator[ReadFile]:
        """Give a function that returns the bytes of a named file, from any thread.

        It raises DataError for one that cannot be read.
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
        try:
            return (self.source / name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self.source / name}: {error.strerror}") from error


def find_image_files(
    data_folder: Path, folder_name: str, archive_names: Sequence[str]
) -> ImageFiles:
    """List ``folder_name/<group>/<class>/*.png`` in the first archive there is, or in the folder.

    Raises DataError when the archive cannot be opened or there is neither archive nor folder.
    """
    for archive_name in archive_names:
        if (data_folder / archive_name).is_file():
            return list_archive(data_folder / archive_name, folder_name)
    if (data_folder / folder_name).is_dir():
        found = (data_folder / folder_name).glob("*/*/*.png")
        listed = [path.relative_to(data_folder).as_posix() for path in found]
        return ImageFiles(
            data_folder, tuple(sorted(name for name in listed if _wanted(name, folder_name)))
        )
    raise DataError(
        f"{data_folder} holds neither {' nor '.join(archive_names)} nor a folder {folder_name}"
    )


def list_archive(path: Path, folder_name: str) -> ImageFiles:
    """List ``folder_name/<group>/<class>/*.png`` in a ZIP archive; raises DataError."""
    with _open_archive(path) as archive:
        listed = [name for name in archive.namelist() if _wanted(name, folder_name)]
    return ImageFiles(path, tuple(sorted(listed)))


def list_class_folders(root: Path, folder_name: str = "") -> dict[str, list[str]]:
    """Return the image files of each folder in ``root/folder_name``, relative to ``root``, sorted.

    Hidden files, and those that are no images by their names, are passed over. Raises DataError for
    a folder that cannot be read or has no image, for a picture of a format that is not read, for a
    link that leads nowhere, which may have been a class, and for a name that is no text.
    """
    classes: dict[str, list[str]] = {}
    for folder in _sorted(root / folder_name):
        if folder.name.startswith("."):
            continue
        if folder.is_symlink() and not folder.exists():
            raise DataError(f"{folder} is a link that leads nowhere, wanted a class folder")
        if not folder.is_dir():
            continue
        _check_text(folder)
        listed = []
        for path in _sorted(folder):
            suffix = path.suffix.lower()
            if path.name.startswith("."):
                continue
            if suffix in _OTHER_SUFFIXES:
                raise DataError(f"{path} is a {suffix} file, wanted PNG, JPEG or WebP images")
            if suffix in _SUFFIXES:
                _check_text(path)
                listed.append(path.relative_to(root).as_posix())
        if not listed:
            raise DataError(f"class folder {folder} has no images, wanted at least 1")
        classes[folder.name] = listed
    return classes


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; raises DataError when it cannot be read."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _sorted(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}") from error


def _check_text(path: Path) -> None:
    """Raise DataError for a name that is no UTF-8: names go into digests and JSON."""
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(path.name)
        raise DataError(f"{path.parent} holds {name!r}, wanted a name in UTF-8") from error


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
