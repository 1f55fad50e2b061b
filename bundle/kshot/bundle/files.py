"""A bundle's folder `NAME/VERSION/`: reading with every digest checked, writing all or nothing."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kshot.bundle.choices import BatchNormMode
from kshot.bundle.errors import BundleError
from kshot.bundle.manifest import (
    CARD_FILE,
    ENCODER_FILE,
    TAIL_FILE,
    TAIL_TEMPLATE_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Manifest,
    bundle_files,
    template_file,
)
from kshot.bundle.memory import available_bytes
from kshot.bundle.schema import MANIFEST_FILE, manifest_bytes, read_manifest
from kshot.bundle.weights import (
    Arrays,
    Weights,
    parse_tail,
    parse_weights,
    tail_bytes,
    weights_bytes,
)
from kshot.local.durable import sync_folder, write_synced

_MAX_MANIFEST_BYTES = 2**20
_COPIES = 2
_VERSION_PATTERN = r"[1-9][0-9]{0,8}"


@dataclass(frozen=True)
class TailFiles:
    """The parameters of a tail by name, and the template that answers with an adapted one."""

    parameters: Arrays
    template: bytes


@dataclass(frozen=True)
class Bundle:
    """A folder whose files match its manifest.

    `digest` is the SHA-256 (hex) of `manifest.json`, which lists the digests of the other files.
    """

    path: Path
    manifest: Manifest
    digest: str

    def template_path(self, mode: BatchNormMode) -> Path:
        """Return the path of the ONNX template of `mode`."""
        return self.path / template_file(mode)

    @property
    def encoder_path(self) -> Path | None:
        """Return the path of the encoder, None where the bundle has none."""
        return None if self.manifest.encoder is None else self.path / ENCODER_FILE

    @property
    def encoder_digest(self) -> str | None:
        """Return the SHA-256 (hex) of the encoder, None where the bundle has none."""
        return None if self.manifest.encoder is None else self.manifest.files[ENCODER_FILE].sha256

    def read_weights(self) -> Weights:
        """Read the initialization; raise `BundleError` when it is invalid."""
        content = _read(self.path, WEIGHTS_FILE, self.manifest.files[WEIGHTS_FILE])
        return parse_weights(content)

    @property
    def tail_template_path(self) -> Path | None:
        """Return the path of the template with an adapted tail, None where there is none."""
        return None if self.manifest.tail is None else self.path / TAIL_TEMPLATE_FILE

    def read_tail(self) -> TailFiles | None:
        """Read the tail, None where there is none; raise `BundleError` when it is invalid."""
        if self.manifest.tail is None:
            return None
        weights, template = (
            _read(self.path, name, self.manifest.files[name])
            for name in (TAIL_FILE, TAIL_TEMPLATE_FILE)
        )
        return TailFiles(parse_tail(weights), template)


def load_bundle(path: Path) -> Bundle:
    """Open `NAME/VERSION`, or `NAME` in its highest version; raise `BundleError` if invalid."""
    folder = version_folder(path)
    try:
        text = _read_manifest_file(folder)
        manifest = read_manifest(text)
        _check_place(folder, manifest)
        bundle = Bundle(folder, manifest, hashlib.sha256(text).hexdigest())
        for name in bundle_files(manifest):
            _read(folder, name, manifest.files[name])
        bundle.read_weights()
        bundle.read_tail()
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    return bundle


def write_bundle(
    root: Path,
    manifest: Manifest,
    weights: Weights,
    templates: Mapping[BatchNormMode, bytes],
    card: str,
    *,
    encoder: bytes | None = None,
    tail: TailFiles | None = None,
) -> Bundle:
    """Write `root/NAME/VERSION` at once or not at all, and fill in the manifest's `files`.

    `templates` has one for each of the manifest's `template_modes`; a manifest with an encoder
    needs `encoder`, the content of `encoder.onnx`, one with a tail `tail`. Raises `BundleError`
    when the content is invalid or this version exists already.
    """
    for mode in manifest.template_modes:
        if mode not in templates:
            raise BundleError(f"{template_file(mode)}: template is missing; each mode needs one")
    if (encoder is None) != (manifest.encoder is None):
        missing = "file is missing" if encoder is None else "the manifest has no `encoder`"
        raise BundleError(f"{ENCODER_FILE}: {missing}")
    if (tail is None) != (manifest.tail is None):
        missing = "file is missing" if tail is None else "the manifest has no `tail`"
        raise BundleError(f"{TAIL_FILE}: {missing}")
    contents = {template_file(mode): templates[mode] for mode in manifest.template_modes}
    contents |= {WEIGHTS_FILE: weights_bytes(weights), CARD_FILE: card.encode()}
    contents |= {} if encoder is None else {ENCODER_FILE: encoder}
    if tail is not None:
        contents |= {TAIL_FILE: tail_bytes(tail.parameters), TAIL_TEMPLATE_FILE: tail.template}
    entries = {name: _entry(contents[name]) for name in bundle_files(manifest)}
    manifest = replace(manifest, files=entries)
    contents[MANIFEST_FILE] = manifest_bytes(manifest)
    read_manifest(contents[MANIFEST_FILE])
    folder = root / manifest.name / str(manifest.version)
    try:
        _write_folder(folder, contents)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written: {error.strerror}") from error
    return load_bundle(folder)


def version_of_digest(folder: Path, digest: str) -> Path | None:
    """Return the version beside a bundle's folder whose manifest has this SHA-256, if there is one.

    Its files are not checked.
    """
    with suppress(FileNotFoundError):  # all versions are gone
        for version in folder.parent.iterdir():
            with suppress(BundleError):
                if folder_digest(version) == digest:
                    return version
    return None


def folder_digest(folder: Path) -> str:
    """Return the digest of the bundle in `NAME/VERSION`; raise `BundleError` without a manifest.

    Its files are not checked.
    """
    return hashlib.sha256(_read_manifest_file(folder)).hexdigest()


def version_folder(path: Path) -> Path:
    """Return `NAME/VERSION`, or `NAME` in its highest version; raise `BundleError`."""
    folder = path.resolve()
    expected = f"expected NAME/VERSION with {MANIFEST_FILE}"
    if not folder.is_dir():
        raise BundleError(f"{path}: not a directory; {expected}{_beside(path)}")
    if (folder / MANIFEST_FILE).exists():
        return folder
    if not (versions := version_numbers(folder)):
        problem = f"{path}: has no {MANIFEST_FILE} and no version folder; {expected}"
        raise BundleError(f"{problem}{_below(path)}")
    return folder / str(versions[-1])


def version_numbers(folder: Path) -> list[int]:
    """Return the versions in `NAME`, the lowest first; none where there is no such folder."""
    with suppress(NotADirectoryError, FileNotFoundError):
        names = (item.name for item in folder.iterdir())
        return sorted(int(name) for name in names if re.fullmatch(_VERSION_PATTERN, name))
    return []


def _beside(path: Path) -> str:
    """Say what to name instead of a file of a bundle, or of a version that is missing."""
    if path.exists() and (path.parent / MANIFEST_FILE).exists():
        return f"; name the folder {path.parent}"
    if versions := version_numbers(path.parent):
        return f"; {path.parent} has version {', '.join(map(str, versions))}"
    return ""


def _below(path: Path) -> str:
    """Say which bundles a folder of several has."""
    with suppress(PermissionError):
        names = sorted(
            item.name
            for item in path.iterdir()
            if any((item / str(one) / MANIFEST_FILE).exists() for one in version_numbers(item))
        )
        if names:
            return f"; name one of its bundles {', '.join(names)}, as {path / names[0]}"
    return ""


def _read_manifest_file(folder: Path) -> bytes:
    try:
        with (folder / MANIFEST_FILE).open("rb") as stream:
            text = stream.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{MANIFEST_FILE}: cannot be read: {error.strerror}") from error
    if len(text) > _MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST_FILE}: expected at most {_MAX_MANIFEST_BYTES} bytes, got more"
        )
    return text


def _check_place(folder: Path, manifest: Manifest) -> None:
    for field, got, expected in (
        ("name", manifest.name, folder.parent.name),
        ("version", str(manifest.version), folder.name),
    ):
        if got != expected:
            problem = f"expected {expected}, the name of the folder, got {got}"
            raise BundleError(f"{MANIFEST_FILE}: {field}: {problem}")
    names = bundle_files(manifest)
    if sorted(manifest.files) != sorted(names):
        listed, expected = ", ".join(manifest.files), ", ".join(names)
        raise BundleError(f"{MANIFEST_FILE}: files: expected {expected}, got {listed or 'none'}")


def _read(folder: Path, name: str, entry: FileEntry) -> bytes:
    """Read a file and check it against the size and digest in the manifest."""
    try:
        size = (folder / name).stat().st_size
        _check_memory(name, size)
        content = (folder / name).read_bytes() if size == entry.size_bytes else b""
    except OSError as error:
        raise BundleError(f"{name}: cannot be read: {error.strerror}") from error
    if size != entry.size_bytes:
        expected = f"{entry.size_bytes} bytes (files.{name}.size_bytes of {MANIFEST_FILE})"
        raise BundleError(f"{name}: expected {expected}, got {size}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256:
        expected = f"SHA-256 {entry.sha256} (files.{name}.sha256 of {MANIFEST_FILE})"
        raise BundleError(f"{name}: expected {expected}, got {digest}")
    return content


def _check_memory(name: str, size: int) -> None:
    """Refuse a file that does not fit into memory twice: as bytes and as arrays."""
    available = available_bytes()
    if available is not None and _COPIES * size > available:
        raise BundleError(
            f"{name}: reading it needs {_COPIES * size} bytes of memory, only {available} are "
            "available"
        )


def _entry(content: bytes) -> FileEntry:
    return FileEntry(hashlib.sha256(content).hexdigest(), len(content))


def _write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        raise BundleError(f"{folder}: exists already; choose a new version")
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, content in contents.items():
            write_synced(temporary / name, content)
        sync_folder(temporary)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
