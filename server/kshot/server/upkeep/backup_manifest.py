"""What a backup holds: its index and its models' files by digest; its presence says it is whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kshot.server.errors import StartError
from kshot.server.store.files import checked_id
from kshot.server.store.ownership import replace_private_file

MANIFEST_FILE = "manifest.json"
MODELS_FOLDER = "models"
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BackupManifest:
    """The SHA-256 of the index and of each model's file, by id; `create_time` in Unix seconds."""

    create_time: float
    index: str
    models: Mapping[str, str]

    @property
    def index_file(self) -> str:
        """Return the index's path in the backup, which its content decides."""
        return f"index-{self.index[:16]}.sqlite3"

    def write(self, folder: Path) -> None:
        """Put the manifest in place, durably and at once; raise `OSError`."""
        document = {"format": _FORMAT, **asdict(self)}
        text = json.dumps({**document, "digest": _digest(document)}, indent=1, sort_keys=True)
        replace_private_file(folder / MANIFEST_FILE, f"{text}\n".encode())

    @classmethod
    def read(cls, folder: Path) -> BackupManifest:
        """Read the manifest of a whole backup; raise `StartError`."""
        path = folder / MANIFEST_FILE
        try:
            document = json.loads(path.read_bytes())
            digest = document.pop("digest")
            if document.pop("format") != _FORMAT or digest != _digest({"format": 1, **document}):
                raise StartError(f"{path}: it was changed, or a newer release wrote it")
            found = cls(**document)
            for model_id in found.models:
                checked_id(model_id)
            if not all(map(_SHA256.fullmatch, (found.index, *found.models.values()))):
                raise ValueError("expected digests")
        except FileNotFoundError as error:
            raise StartError(
                f"{folder}: expected a whole backup, found no {MANIFEST_FILE}; "
                "run `kshot store backup` to its end"
            ) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StartError(f"{path}: expected the manifest of a backup: {error}") from error
        return found


def model_file(model_id: str, sha256: str) -> str:
    """Return the path of a model in a backup; another content has another name."""
    return f"{MODELS_FOLDER}/{checked_id(model_id)}.{sha256[:16]}.safetensors"


def _digest(document: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
