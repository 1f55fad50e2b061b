"""Tasks kept in a file, so that all compared variants solve the same tasks."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kshot.learner import derive_seed
from kshot.local import write_file
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episodes import EpisodeBatch, episode_digest, sample_episodes

FORMAT = "kshot-episodes-1"
# One key of metadata: the library writes several keys in any order.
_KEY = "kshot"


@dataclass(frozen=True)
class TaskShape:
    """The number and shape of drawn tasks, and the seed; `query_count` is per class."""

    way: int
    shot: int
    query_count: int
    task_count: int
    seed: int


@dataclass(frozen=True)
class EpisodeSet:
    """Tasks of one data set, with the digests of its images and of its split."""

    episodes: EpisodeBatch
    shape: TaskShape
    data_digest: str
    split_digest: str

    @property
    def digest(self) -> str:
        """Return the SHA-256 over everything here; equal tasks of equal data have equal digests."""
        document = {**self._identity(), "episodes": episode_digest(self.episodes)}
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def header(self) -> dict[str, int | str]:
        """Return the header of the file, which identifies the tasks."""
        return {**self._identity(), "digest": self.digest}

    def _identity(self) -> dict[str, int | str]:
        digests = {"data_digest": self.data_digest, "split_digest": self.split_digest}
        return {"format": FORMAT, **asdict(self.shape), **digests}


def draw_episodes(dataset: ImageDataset, shape: TaskShape) -> EpisodeSet:
    """Draw tasks from the shape's seed; raises `DataError` when the data set is too small."""
    generator = torch.Generator().manual_seed(derive_seed(shape.seed))
    counts = shape.task_count, shape.way, shape.shot, shape.query_count
    episodes = sample_episodes(dataset, *counts, generator)
    return EpisodeSet(episodes, shape, dataset.digest, dataset.split_digest)


def write_episodes(path: Path, drawn: EpisodeSet) -> None:
    """Write tasks to a new file, whole or not at all; equal tasks give equal bytes.

    Raises `DataError` when the file exists or cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in vars(drawn.episodes).items()}
    if path.exists():
        raise DataError(f"episode file {path} exists already; name a new file")
    try:
        write_file(path, save(tensors, {_KEY: json.dumps(drawn.header())}))
    except OSError as error:
        raise DataError(f"episode file {path} could not be written: {error.strerror}") from error


def read_episodes(path: Path, dataset: ImageDataset) -> EpisodeSet:
    """Read tasks of a data set.

    Raises `DataError` when the file cannot be read, is damaged, or belongs to other data.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
        episodes = EpisodeBatch(
            **{field.name: tensors[field.name] for field in fields(EpisodeBatch)}
        )
        shape = TaskShape(**{field.name: header[field.name] for field in fields(TaskShape)})
        found = EpisodeSet(episodes, shape, header["data_digest"], header["split_digest"])
        if header != found.header():
            raise ValueError("its digest does not fit its content")
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"episode file {path} cannot be read: {reason}") from error
    except KeyError as error:
        raise DataError(f"episode file {path} is damaged: {error.args[0]} is missing") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise DataError(f"episode file {path} is damaged: {error}") from error
    for name, got, expected in (
        ("split", found.split_digest, dataset.split_digest),
        ("images", found.data_digest, dataset.digest),
    ):
        if got != expected:
            raise DataError(
                f"episode file {path} belongs to other data: expected the digest {expected} of the "
                f"{name} of {dataset.name}, got {got}"
            )
    if not _fits(found, dataset):
        raise DataError(
            f"episode file {path} holds other tasks than its header names: expected "
            f"{shape.task_count} {shape.way}-way {shape.shot}-shot tasks of {dataset.name}, each "
            "image of its label's class"
        )
    return found


def _fits(found: EpisodeSet, dataset: ImageDataset) -> bool:
    """Tell whether tasks have their shape, and every image is of the class that its label names.

    Another program may have written the file, with digests that fit.
    """
    episodes, shape = found.episodes, found.shape
    for indices, per_class, bound in (
        (episodes.support, shape.shot, dataset.image_count),
        (episodes.support_classes, shape.shot, shape.way),
        (episodes.queries, shape.query_count, dataset.image_count),
        (episodes.query_classes, shape.query_count, shape.way),
        (episodes.classes, 1, dataset.class_count),
    ):
        count = shape.way * per_class
        if indices.dtype != torch.int64 or indices.shape != (shape.task_count, count):
            return False
        if not ((indices >= 0) & (indices < bound)).all():
            return False
    rows = torch.cat([episodes.support, episodes.queries], dim=1)
    labels = torch.cat([episodes.support_classes, episodes.query_classes], dim=1)
    class_of = torch.repeat_interleave(dataset.class_offsets.diff())
    return torch.equal(class_of[rows], episodes.classes.gather(1, labels))
