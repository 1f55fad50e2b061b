"""Checkpoints of a meta-training: one small file, replaced atomically."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kshot.learner import ParameterLayout
from kshot.trainer.errors import TrainingError
from kshot.trainer.outer_loop import OuterState

SCHEMA_VERSION = "1"


@dataclass(frozen=True)
class TrainingIdentity:
    """What must be equal for a training to go on from a checkpoint; digests are SHA-256, hex."""

    recipe_digest: str
    data_digest: str


def write_checkpoint(
    path: Path, state: OuterState, layout: ParameterLayout, identity: TrainingIdentity
) -> None:
    """Write a checkpoint beside ``path`` and rename it over the last one.

    Raises ``TrainingError`` when the disk does not take it; the last checkpoint is then untouched.
    """
    tensors = {"step": torch.tensor(state.step, dtype=torch.int64)}
    for prefix, vector in (
        ("parameters", state.parameters),
        ("second_moment", state.second_moment),
    ):
        for name, value in layout.split(vector.unsqueeze(0)).items():
            tensors[f"{prefix}.{name}"] = value[0].cpu().contiguous()
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "meta_iteration": str(state.meta_iteration),
        "recipe_digest": identity.recipe_digest,
        "data_digest": identity.data_digest,
    }
    temporary = path.with_suffix(".partial")
    try:
        with temporary.open("wb") as file:
            file.write(save(tensors, metadata))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"checkpoint {path} could not be written: {error.strerror}; the last one is untouched"
        ) from None


def read_checkpoint(
    path: Path, layout: ParameterLayout, identity: TrainingIdentity, device: torch.device
) -> OuterState:
    """Read a checkpoint of this very training.

    Raises ``TrainingError`` when there is none, it is damaged, or it belongs to another recipe or
    other data.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
        _check_identity(path, metadata, identity)
        vectors = [
            layout.join({name: tensors[f"{prefix}.{name}"] for name in layout.shapes})
            for prefix in ("parameters", "second_moment")
        ]
        return OuterState(
            vectors[0], vectors[1], int(tensors["step"]), int(metadata["meta_iteration"])
        )
    except FileNotFoundError:
        raise TrainingError(f"there is no checkpoint {path} to resume from") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise TrainingError(f"checkpoint {path} is damaged: {error}") from None


def _check_identity(path: Path, metadata: Mapping[str, str], identity: TrainingIdentity) -> None:
    wanted = {
        "schema_version": SCHEMA_VERSION,
        "recipe_digest": identity.recipe_digest,
        "data_digest": identity.data_digest,
    }
    for key, value in wanted.items():
        if metadata.get(key) != value:
            found = json.dumps(metadata.get(key))
            raise TrainingError(
                f"checkpoint {path} cannot be resumed: its {key} is {found}, this training's "
                f"is {json.dumps(value)}"
            )
