"""Copies a store into a folder, also while a server runs, and verifies every byte by its digest."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from kshot.local.durable import sync_folder
from kshot.server.errors import StartError
from kshot.server.store.content import content_digest, described
from kshot.server.store.files import StoreFiles
from kshot.server.store.folder import INDEX_FILE
from kshot.server.store.ownership import (
    check_root,
    private_file,
    private_folder,
    replace_private_file,
)
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.rows import WHOLE, Row
from kshot.server.upkeep.backup_manifest import (
    MANIFEST_FILE,
    MODELS_FOLDER,
    BackupManifest,
    model_file,
)
from kshot.server.upkeep.index_copy import copy_running_index

_SCRATCH = ".copying"


@dataclass
class Backup:
    """What a backup did: models that it holds, and of these those that an earlier one had copied.

    `memory` counts models that end with their server and are left out, `gone` those that were
    deleted or expired meanwhile, `damaged` those that are in the store, but not whole.
    """

    models: int = 0
    copied: int = 0
    memory: int = 0
    gone: int = 0
    damaged: int = 0
    size_bytes: int = 0


def back_up(path: Path, folder: Path) -> Backup:
    """Copy the store at `path` into a folder, empty or with an earlier backup; raise `StartError`.

    Names follow from contents and the manifest comes last, so the earlier backup is whole until the
    new one is; what only that one has is removed then.
    """
    store, into = path.resolve(), folder.resolve()
    if into == store or store in into.parents or into in store.parents:
        raise StartError(f"{folder}: expected a folder outside the store {path}")
    try:
        check_root(folder)
        _check_ours(folder)
        private_folder(folder / MODELS_FOLDER)
        scratch = folder / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        scratch.mkdir(mode=0o700)
        copy = scratch / INDEX_FILE
        index = copy_running_index(path / INDEX_FILE, copy)
        done = Backup()
        try:
            models = _copy_models(StoreFiles(path), index, folder, done)
        finally:
            index.close()
        content = copy.read_bytes()
        manifest = BackupManifest(time.time(), hashlib.sha256(content).hexdigest(), models)
        replace_private_file(folder / manifest.index_file, content)
        sync_folder(folder / MODELS_FOLDER)
        shutil.rmtree(scratch)
        manifest.write(folder)
        _remove_others(folder, manifest)
    except OSError as error:
        raise StartError(f"{folder}: cannot back up {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StartError(f"{path}: cannot read a copy of the index: {error}") from error
    return done


def _check_ours(folder: Path) -> None:
    ours = {MANIFEST_FILE, MODELS_FOLDER, _SCRATCH}
    for each in folder.iterdir():
        if each.name not in ours and not each.name.startswith(("index-", ".")):
            raise StartError(
                f"{folder}: expected an empty folder or an earlier backup, found {each.name!r}; "
                "choose another one"
            )


def _copy_models(
    files: StoreFiles, index: StoreIndex, folder: Path, done: Backup
) -> dict[str, str]:
    """Copy the file of each row; the copied index then has the rows of what was copied."""
    models = {}
    for row in [row for _, _, row in index.rows() if row and row.state == WHOLE]:
        if _has(folder / model_file(row.id, row.sha256), row.sha256):
            found = row
        else:
            content = _content(files, row)
            if content is None:
                if row.in_memory:
                    done.memory += 1
                else:
                    done.gone += 1
                index.forget(row.id)
                continue
            renewed = _row_of(content, row)
            if renewed is None:
                done.damaged += 1
                index.mark_damaged(row.id)
                continue
            if renewed != row:
                index.replace(renewed)
            found = renewed
            place = folder / model_file(found.id, found.sha256)
            if not _has(place, found.sha256):
                replace_private_file(place, content)
                done.copied += 1
        private_file(folder / model_file(found.id, found.sha256))
        models[found.id] = found.sha256
        done.size_bytes += found.size_bytes
    done.models = len(models)
    return models


def _content(files: StoreFiles, row: Row) -> bytes | None:
    """Return a model's file, with its name or before it has it; None if it is gone."""
    for read in (files.read, files.read_partial, files.read):
        try:
            content = read(row.id)
        except FileNotFoundError:
            continue
        if read == files.read or content_digest(content) == row.sha256:
            return content
    return None


def _row_of(content: bytes, row: Row) -> Row | None:
    """Return the row of a file, which may have changed meanwhile, None if it is not whole."""
    digest = content_digest(content)
    if digest and digest == row.sha256:
        return row
    try:
        model = described(content)
    except ValueError:
        return None
    same = (model.id, model.tenant) == (row.id, row.tenant)
    return Row.of(model, digest) if same else None


def _has(place: Path, sha256: str) -> bool:
    try:
        return content_digest(place.read_bytes()) == sha256
    except FileNotFoundError:
        return False


def _remove_others(folder: Path, manifest: BackupManifest) -> None:
    """Remove what an earlier backup alone had."""
    wanted = {model_file(model_id, digest) for model_id, digest in manifest.models.items()}
    for each in (folder / MODELS_FOLDER).iterdir():
        if f"{MODELS_FOLDER}/{each.name}" not in wanted and each.is_file():
            each.unlink()
    for each in folder.glob("index-*.sqlite3"):
        if each.name != manifest.index_file:
            each.unlink()
    sync_folder(folder / MODELS_FOLDER)
    sync_folder(folder)
