"""Makes a store of a backup, on this machine or another one."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from kshot.local.durable import sync_folder
from kshot.server.errors import StartError
from kshot.server.store.content import content_digest
from kshot.server.store.folder import INDEX_FILE
from kshot.server.store.ownership import check_root, private_folder, replace_private_file
from kshot.server.upkeep.backup_manifest import BackupManifest, model_file

# Is there until all is restored: such a folder may be emptied and filled again.
_UNFINISHED = ".restoring"


def restore(folder: Path, path: Path) -> BackupManifest:
    """Write the backup in `folder` as a store at `path`, which must be empty; raise `StartError`.

    Everything is verified before anything is written. The index comes last: no server opens a part.
    """
    manifest = BackupManifest.read(folder)
    problems = list(_problems(folder, manifest))
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise StartError(f"{folder}: the backup is damaged: {'; '.join(problems[:3])}{more}")
    try:
        check_root(path)
        _empty(path)
        (path / _UNFINISHED).touch(mode=0o600)
        models = path / "models"
        private_folder(models)
        for model_id, sha256 in manifest.models.items():
            content = (folder / model_file(model_id, sha256)).read_bytes()
            replace_private_file(models / f"{model_id}.safetensors", content)
        sync_folder(path)
        replace_private_file(path / INDEX_FILE, (folder / manifest.index_file).read_bytes())
        (path / _UNFINISHED).unlink()
        sync_folder(path)
    except OSError as error:
        raise StartError(f"{path}: cannot restore {folder}: {error.strerror}") from error
    return manifest


def _problems(folder: Path, manifest: BackupManifest) -> Iterator[str]:
    """Yield what in a backup is not what its manifest says."""
    try:
        content = (folder / manifest.index_file).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest.index:
            yield f"{manifest.index_file} was changed"
    except OSError as error:
        yield f"{manifest.index_file}: {error.strerror}"
    for model_id, sha256 in manifest.models.items():
        name = model_file(model_id, sha256)
        try:
            if content_digest((folder / name).read_bytes()) != sha256:
                yield f"{name} was changed"
        except OSError as error:
            yield f"{name}: {error.strerror}"


def _empty(path: Path) -> None:
    """Clear what a restore left that was killed; raise `StartError` if there is anything else."""
    found = {each.name for each in path.iterdir()}
    if found and _UNFINISHED not in found:
        raise StartError(
            f"{path}: expected an empty folder, found {min(found)!r}; name another one"
        )
    for each in path.iterdir():
        if each.name != _UNFINISHED:
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
