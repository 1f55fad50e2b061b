"""A folder with one folder of images for each class, as people have it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.local.image_formats import READ, is_picture, phrase, read_format

# Told by their names: reading the beginning of each file of a large folder takes seconds.
_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
_NAMES_OF_SYSTEMS = (
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
_LISTED = 3  # names in a sentence
_DEPTH, _MOST_FOLDERS = 4, 1000  # of a search for misplaced classes


class FolderError(Exception):
    """A folder does not hold class folders; the message is for the user."""


@dataclass(frozen=True)
class ClassFolders:
    """The image files of each class, sorted, and the sentences that the user should read."""

    classes: dict[str, tuple[Path, ...]]
    remarks: tuple[str, ...]


def list_classes(
    folder: Path, also: Collection[str] = (), remedies: Mapping[str, str] | None = None
) -> ClassFolders:
    """List the images of each class folder in `folder`.

    Hidden names, files of systems (`Thumbs.db`) and files that are no pictures are passed over;
    all but the hidden ones are named in a remark. Pictures of formats that are not read, except
    those in `also`, are refused, as are empty and indistinguishable classes; `remedies` has more to
    say of a format. Raises `FolderError`; where classes lie elsewhere it names the right folder.
    """
    if not folder.is_dir():
        raise FolderError(_no_folder(folder))
    listing = _Listing(also)
    for entry in _visible(folder):
        listing.add(entry)
    if listing.foreign:
        raise FolderError(_foreign(listing.foreign, remedies or {}))
    if not any(listing.classes.values()):
        raise FolderError(_misplaced(folder, listing))
    for name, images in listing.classes.items():
        if not images:
            below = _with_images(folder / name)
            remedy = f"move up those in {_some([*map(str, below)])}" if below else "add some"
            raise FolderError(
                f"class folder {folder / name} has no images; expected at least 1; {remedy}, or "
                "remove the folder"
            )
    alike = _alike(folder, listing.classes)
    return ClassFolders(
        {name: tuple(images) for name, images in listing.classes.items()},
        (*alike, *listing.remarks(folder)),
    )


class _Listing:
    """What was found in a folder so far."""

    def __init__(self, also: Collection[str]) -> None:
        self.classes: dict[str, list[Path]] = {}
        self.strays: list[Path] = []
        self.foreign: list[Path] = []  # pictures that must not go missing
        self._passed: list[Path] = []
        self._read = (*READ, *also)

    def add(self, entry: os.DirEntry[str]) -> None:
        """Take a class folder, or a picture beside the class folders."""
        if _of_a_system(entry):
            return
        if _is_folder(entry):
            self.classes[_utf8(Path(entry.path))] = [
                Path(inside.path) for inside in _visible(Path(entry.path)) if self._is_image(inside)
            ]
        elif is_picture(_kind(entry)):
            self.strays.append(Path(entry.path))

    def remarks(self, folder: Path) -> Iterator[str]:
        """Yield a sentence on what was passed over, but for texts beside the class folders."""
        passed = [*self.strays, *self._passed]
        if passed:
            names = [str(path.relative_to(folder)) for path in passed]
            yield f"{folder}: passed over what is no image of a class: {_some(names)}"

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        """Tell whether a class folder's file is an image, and remember what is none."""
        kind = "" if _of_a_system(entry) or _is_folder(entry) else _kind(entry)
        if kind in self._read:
            return True
        (self.foreign if is_picture(kind) else self._passed).append(Path(entry.path))
        return False


def _kind(entry: os.DirEntry[str]) -> str:
    """Return the format of a file, empty if unknown."""
    if not entry.is_file():  # reading a pipe would wait for its writer
        return ""
    if entry.name.lower().endswith(_SUFFIXES):
        return READ[0]
    try:
        return read_format(Path(entry.path))
    except OSError as error:
        raise FolderError(f"cannot read {entry.path}: {error.strerror}") from error


def refusal(kind: str, remedies: Mapping[str, str]) -> str:
    """Say what a file of a format that is not read is, and what to do with it."""
    remedy = "convert it to PNG or JPEG, or move it away"
    if kind in remedies:
        remedy = f"{remedies[kind]}, or {remedy}"
    return f"{phrase(kind)}; expected PNG, JPEG or WebP; {remedy}"


def _foreign(files: Sequence[Path], remedies: Mapping[str, str]) -> str:
    """Refuse the first of some files that are not read, and count the others."""
    more = f"; {len(files) - 1} more files are not read either" if len(files) > 1 else ""
    return f"{files[0]}: {refusal(read_format(files[0]), remedies)}{more}"


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise FolderError(f"cannot read {folder}: {error.strerror}") from error
    return sorted(found, key=lambda entry: entry.name)


def _of_a_system(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower() in _NAMES_OF_SYSTEMS


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell folders from files; a dangling link may have been either, and must not go missing."""
    if entry.is_symlink() and not Path(entry.path).exists():
        raise FolderError(f"{entry.path}: dangling link; expected a class folder or an image")
    return entry.is_dir()


def _utf8(path: Path) -> str:
    """Return a class folder's name, whatever the locale says of names."""
    try:
        return os.fsencode(path.name).decode()
    except UnicodeDecodeError as error:
        raise FolderError(
            f"{path.parent} holds {os.fsencode(path.name)!r}; expected a name in UTF-8; rename it"
        ) from error


def _alike(folder: Path, names: Collection[str]) -> Iterator[str]:
    """Yield a sentence for classes that differ by case; refuse those that look the same."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise FolderError(
                f"{folder}: two classes are called {name}, in two spellings of Unicode "
                f"({other!a} and {name!a}); join them or rename one"
            )
    folded: dict[str, str] = {}
    for name in names:
        other = folded.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            yield f"{folder}: the classes {other} and {name} differ by case alone"


def _no_folder(folder: Path) -> str:
    if folder.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar") and folder.exists():
        return f"{folder}: an archive; unpack it and name the folder that it holds"
    what = "not a directory" if folder.exists() else "no such directory"
    return f"{folder}: {what}: expected one subdirectory per class"


def _misplaced(folder: Path, listing: _Listing) -> str:
    """Say where the classes are instead, if they are near."""
    expected = f"{folder}: expected one subdirectory of images per class"
    if found := _holders(folder):
        names = _some([str(place) for place in found])
        return f"{expected}, got them further down; name {names}" + " alone" * (len(found) > 1)
    if listing.strays:
        above = folder.absolute().parent
        if len(_with_images(above)) > 1:
            return f"{expected}, got images; if they are those of one class, name {above}"
        return f"{expected}, got images; move those of each class to a folder of their own"
    if listing.classes:
        return f"{expected}, got no images in {_some(list(listing.classes))}"
    return f"{expected}, got none"


def _holders(folder: Path) -> list[Path]:
    """Return the folders below one that hold folders with images, the nearest ones."""
    level, visited = _folders(folder), 0
    for _ in range(_DEPTH):
        found = [place for place in level if _with_images(place)]
        if found:
            return found
        level = [below for place in level for below in _folders(place)]
        visited += len(level)
        if visited > _MOST_FOLDERS:
            break
    return []


def _with_images(folder: Path) -> list[Path]:
    """Return the folders in one that hold images."""
    return [
        place
        for place in _folders(folder)
        if any(entry.name.lower().endswith(_SUFFIXES) for entry in _entries(place))
    ]


def _folders(folder: Path) -> list[Path]:
    return sorted(
        Path(entry.path)
        for entry in _entries(folder)
        if entry.is_dir(follow_symlinks=False) and not _of_a_system(entry)
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds; nothing if it cannot be read, as this is a search for words."""
    try:
        return _visible(folder)
    except FolderError:
        return []


def _some(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
