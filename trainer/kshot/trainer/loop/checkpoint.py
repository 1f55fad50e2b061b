"""Checkpoints of a meta-training: one small file, replaced atomically."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kshot.learner import ParameterLayout
from kshot.local import write_file
from kshot.trainer.errors import OtherTrainingError, TrainingError
from kshot.trainer.loop.outer_state import OuterMoments, OuterState

COUNTERS = ("step", "meta_iteration")
PARAMETERS, SECOND_MOMENT = "parameters", "second_moment"
OUTER_MOMENTS = ("outer_first_moment", "outer_second_moment")
DIGEST = "tensors_sha256"


@dataclass(frozen=True)
class TrainingIdentity:
    """The digests that a training and its checkpoint must share; SHA-256, hex."""

    recipe_digest: str
    data_digest: str


def write_checkpoint(
    path: Path, state: OuterState, layout: ParameterLayout, identity: TrainingIdentity
) -> None:
    """Write a checkpoint in the place of the last one.

    Equal states give equal bytes. Raises `TrainingError` when it cannot be written; the last one
    is then untouched.
    """
    tensors = _counters(state)
    for prefix, vector in _vectors(state).items():
        if prefix != PARAMETERS and not vector.any():
            continue  # zero vectors, as v of a training by SGD, are left out
        for name, value in layout.split(vector.unsqueeze(0)).items():
            tensors[f"{prefix}.{name}"] = value[0].cpu().contiguous()
    metadata = {DIGEST: _digest(tensors), **asdict(identity)}
    try:
        write_file(path, _with_ordered_metadata(save(tensors, metadata)))
    except OSError as error:
        raise TrainingError(
            f"checkpoint {path} could not be written: {error.strerror}; the last one is untouched"
        ) from error


def read_checkpoint(
    path: Path, layout: ParameterLayout, identity: TrainingIdentity, first: OuterState
) -> OuterState:
    """Read a checkpoint of this training, to the device of its first state.

    Raises `TrainingError` when there is none or it is damaged, `OtherTrainingError` when it
    belongs to another recipe or other data.
    """
    try:
        with safe_open(path, framework="pt", device=str(first.parameters.device)) as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
        _check_identity(path, metadata, identity)

        def vector(prefix: str) -> Tensor:
            return layout.join({name: tensors[f"{prefix}.{name}"] for name in layout.shapes})

        def vector_or_zeros(prefix: str) -> Tensor:
            written = any(name.startswith(f"{prefix}.") for name in tensors)
            return vector(prefix) if written else torch.zeros_like(first.parameters)

        parameters, second_moment = vector(PARAMETERS), vector_or_zeros(SECOND_MOMENT)
        moments = None
        if first.moments is not None:
            moments = OuterMoments(*map(vector_or_zeros, OUTER_MOMENTS))
        step, meta_iteration = (int(tensors[name]) for name in COUNTERS)
        if metadata[DIGEST] != _digest(tensors):
            raise ValueError("its digest is not that of its numbers")
        return OuterState(parameters, second_moment, step, meta_iteration, moments)
    except FileNotFoundError as error:
        raise TrainingError(f"there is no checkpoint {path} to resume from") from error
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(f"checkpoint {path} cannot be read: {reason}") from error
    except KeyError as error:
        raise TrainingError(f"checkpoint {path} is damaged: {error.args[0]} is missing") from error
    except (SafetensorError, ValueError) as error:
        raise TrainingError(f"checkpoint {path} is damaged: {error}") from error


def state_digest(state: OuterState) -> str:
    """Return the SHA-256 of all numbers that a checkpoint keeps of a state."""
    return _digest(_counters(state) | _vectors(state))


def _counters(state: OuterState) -> dict[str, Tensor]:
    return {name: torch.tensor(getattr(state, name), dtype=torch.int64) for name in COUNTERS}


def _vectors(state: OuterState) -> dict[str, Tensor]:
    vectors = {PARAMETERS: state.parameters, SECOND_MOMENT: state.second_moment}
    if state.moments is not None:
        vectors |= zip(OUTER_MOMENTS, state.moments, strict=True)
    return vectors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over the names and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + b"\0" + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _with_ordered_metadata(content: bytes) -> bytes:
    """Sort a safetensors file's metadata, whose order the library leaves to chance."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    return content[:8] + ordered + content[8 + size :]


def _check_identity(path: Path, metadata: Mapping[str, str], identity: TrainingIdentity) -> None:
    for key, value in asdict(identity).items():
        if metadata.get(key) != value:
            found = json.dumps(metadata.get(key))
            raise OtherTrainingError(
                f"checkpoint {path} cannot be resumed: its {key} is {found}, expected "
                f"{json.dumps(value)}"
            )
