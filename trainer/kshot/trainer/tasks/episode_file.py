"""Tasks kept in a file, so that all variants that are compared, anywhere, solve the same ones."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kshot.bundle import sync_folder, write_synced
from kshot.learner import derive_seed
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episodes import EpisodeBatch, episode_digest, sample_episodes

__all__ = ["EpisodeSet", "TaskShape", "draw_episodes", "read_episodes", "write_episodes"]

FORMAT = "kshot-episodes-1"
# One key of metadata, for the library puts several in any order.
_KEY = "kshot"


@dataclass(frozen=True)
class TaskShape:
    """How many tasks of which shape were drawn, from which seed; ``query_count`` is per class."""

    way: int
    shot: int
    query_count: int
    task_count: int
    seed: int


@dataclass(frozen=True)
class EpisodeSet:
    """Tasks of one data set; the digests are those of its pixels and of its split."""

    episodes: EpisodeBatch
    shape: TaskShape
    data_digest: str
    split_digest: str

    @property
    def digest(self) -> str:
        """Return the SHA-256 over everything here: equal tasks of equal data, equal digests."""
        document = {**self._identity(), "episodes": episode_digest(self.episodes)}
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def header(self) -> dict[str, int | str]:
        """Return what names the tasks, as the file carries it."""
        return {**self._identity(), "digest": self.digest}

    def _identity(self) -> dict[str, int | str]:
        digests = {"data_digest": self.data_digest, "split_digest": self.split_digest}
        return {"format": FORMAT, **asdict(self.shape), **digests}


def draw_episodes(dataset: ImageDataset, shape: TaskShape) -> EpisodeSet:
    """Draw tasks from the shape's seed; raises ``DataError`` when the data set is too small."""
    generator = torch.Generator().manual_seed(derive_seed(shape.seed))
    counts = shape.task_count, shape.way, shape.shot, shape.query_count
    episodes = sample_episodes(dataset, *counts, generator)
    return EpisodeSet(episodes, shape, dataset.digest, dataset.split_digest)


def write_episodes(path: Path, drawn: EpisodeSet) -> None:
    """Write tasks to a new file, whole or not at all; equal tasks give equal bytes.

    Raises ``DataError`` when the file is there, or cannot be written.
    """
    tensors = {
        field.name: getattr(drawn.episodes, field.name).contiguous()
        for field in fields(EpisodeBatch)
    }
    if path.exists():
        raise DataError(f"episode file {path} is there already, wanted a new one")
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)  # of a run that was killed
        write_synced(temporary, save(tensors, {_KEY: json.dumps(drawn.header())}))
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"episode file {path} could not be written: {error.strerror}") from error


def read_episodes(path: Path, dataset: ImageDataset) -> EpisodeSet:
    """Read tasks of this very data set.

    Raises ``DataError`` when the file cannot be read, is damaged, or is of other data.
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
            raise ValueError("its numbers are not those that were written")
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"episode file {path} cannot be read: {reason}") from error
    except KeyError as error:
        raise DataError(f"episode file {path} is damaged: it has no {error.args[0]}") from error
    except (SafetensorError, TypeError, ValueError) as error:
        raise DataError(f"episode file {path} is damaged: {error}") from error
    for name, got, wanted in (
        ("split", found.split_digest, dataset.split_digest),
        ("images", found.data_digest, dataset.digest),
    ):
        if got != wanted:
            raise DataError(
                f"episode file {path} is of other data: the digest of its {name} is {got}, "
                f"that of {dataset.name} is {wanted}"
            )
    if not _fits(found, dataset):
        raise DataError(
            f"episode file {path} holds other tasks than it says, wanted "
            f"{found.shape.task_count} {found.shape.way}-way tasks of {dataset.name}, each image "
            "of its label's class"
        )
    return found


def _fits(found: EpisodeSet, dataset: ImageDataset) -> bool:
    """Return whether tasks are of their shape, and every image of the class that its label names.

    Digests tell damage, not what another program has written.
    """
    episodes, shape = found.episodes, found.shape
    counts = {"classes": shape.way}
    counts |= dict.fromkeys(("support", "support_classes"), shape.way * shape.shot)
    counts |= dict.fromkeys(("queries", "query_classes"), shape.way * shape.query_count)
    bounds = {"classes": dataset.class_count, "support_classes": shape.way}
    bounds["query_classes"] = shape.way
    for name, count in counts.items():
        indices = getattr(episodes, name)
        if indices.dtype != torch.int64 or indices.shape != (shape.task_count, count):
            return False
        if count and not 0 <= int(indices.min()) <= int(indices.max()) < bounds.get(
            name, dataset.image_count
        ):
            return False
    ends = dataset.class_offsets[1:].contiguous()
    return all(
        torch.equal(
            torch.searchsorted(ends, rows.contiguous(), right=True),
            episodes.classes.gather(1, labels),
        )
        for rows, labels in (
            (episodes.support, episodes.support_classes),
            (episodes.queries, episodes.query_classes),
        )
    )
