import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episode_file import TaskShape, draw_episodes, read_episodes, write_episodes
from kshot.trainer.tasks.episodes import EpisodeBatch

Patterns = Callable[..., ImageDataset]
SHAPE = TaskShape(way=4, shot=2, query_count=3, task_count=6, seed=9)


def test_a_file_gives_back_what_was_drawn(patterns: Patterns, tmp_path: Path) -> None:
    dataset, path = patterns(), tmp_path / "episodes.safetensors"
    drawn = draw_episodes(dataset, SHAPE)
    write_episodes(path, drawn)

    found = read_episodes(path, dataset)

    assert found.shape == SHAPE
    assert found.digest == drawn.digest
    for field in fields(EpisodeBatch):
        assert torch.equal(getattr(found.episodes, field.name), getattr(drawn.episodes, field.name))
    assert list(tmp_path.iterdir()) == [path]


def test_equal_tasks_are_equal_bytes_and_digests(patterns: Patterns, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        write_episodes(path, draw_episodes(patterns(), SHAPE))

    assert len({path.read_bytes() for path in paths}) == 1
    digests = {
        draw_episodes(dataset, shape).digest
        for dataset, shape in (
            (patterns(), SHAPE),
            (patterns(), replace(SHAPE, seed=1)),
            (patterns(), replace(SHAPE, task_count=5)),
            (patterns(seed=1), SHAPE),
        )
    }
    assert len(digests) == 4


def test_tasks_of_other_data_are_refused(patterns: Patterns, tmp_path: Path) -> None:
    path = tmp_path / "episodes"
    write_episodes(path, draw_episodes(patterns(), SHAPE))

    with pytest.raises(
        DataError, match=r"belongs to other data: expected the digest .* of the images"
    ):
        read_episodes(path, patterns(seed=1))
    with pytest.raises(
        DataError, match=r"belongs to other data: expected the digest .* of the split"
    ):
        read_episodes(path, replace(patterns(), split_digest="0" * 64))


def test_damage_at_any_place_is_refused(patterns: Patterns, tmp_path: Path) -> None:
    """Every 97th byte is changed, of header and tensors, and the file is cut at some."""
    dataset, path = patterns(), tmp_path / "episodes"
    write_episodes(path, draw_episodes(dataset, SHAPE))
    content = path.read_bytes()

    for place in range(0, len(content), 97):
        for damaged in (
            content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
            content[:place],
        ):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match="episode file"):
                read_episodes(path, dataset)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("queries", lambda rows: rows + 10**6),
        ("support", lambda rows: rows - 10**6),
        ("support", lambda rows: rows[:, :-1]),
        ("support", lambda rows: rows.flip(1)),
        ("classes", lambda classes: classes.float()),
        ("query_classes", lambda classes: classes + 4),
        ("query_classes", lambda classes: classes.roll(1, dims=1)),
    ],
)
def test_impossible_tasks_are_refused(
    patterns: Patterns,
    tmp_path: Path,
    field: str,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Another program may have written the file, with digests that fit."""
    dataset, path = patterns(), tmp_path / "episodes"
    drawn = draw_episodes(dataset, SHAPE)
    changed = change(getattr(drawn.episodes, field))
    other = replace(drawn, episodes=replace(drawn.episodes, **{field: changed}))
    write_episodes(path, other)

    with pytest.raises(DataError, match=r"expected 6 4-way \d-shot tasks of patterns"):
        read_episodes(path, dataset)


def test_a_file_that_is_no_episode_file_is_refused(patterns: Patterns, tmp_path: Path) -> None:
    dataset, path = patterns(), tmp_path / "episodes"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_episodes(path, dataset)
    save_file({"images": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="is damaged: kshot is missing"):
        read_episodes(path, dataset)
    write_episodes(tmp_path / "good", draw_episodes(dataset, SHAPE))
    tensors = load_file(tmp_path / "good")
    header = {**draw_episodes(dataset, SHAPE).header(), "seed": 1}
    save_file(tensors, path, {"kshot": json.dumps(header)})
    with pytest.raises(DataError, match="is damaged: its digest does not fit its content"):
        read_episodes(path, dataset)
    save_file(tensors, path, {"kshot": "[]"})
    with pytest.raises(DataError, match="is damaged"):
        read_episodes(path, dataset)


def test_a_file_that_cannot_be_written_leaves_nothing(patterns: Patterns, tmp_path: Path) -> None:
    drawn = draw_episodes(patterns(), SHAPE)
    with pytest.raises(DataError, match="could not be written: there is no folder"):
        write_episodes(tmp_path / "none" / "episodes", drawn)
    path = tmp_path / "there"
    path.write_bytes(b"kept")

    with pytest.raises(DataError, match="exists already; name a new file"):
        write_episodes(path, drawn)

    assert path.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [path]
