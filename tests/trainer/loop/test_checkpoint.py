import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kshot.learner import ParameterLayout
from kshot.trainer.errors import TrainingError
from kshot.trainer.loop.checkpoint import TrainingIdentity, read_checkpoint, write_checkpoint
from kshot.trainer.loop.outer_state import OuterMoments, OuterState

LAYOUT = ParameterLayout({"body": (3, 2), "head.weight": (2, 3), "head.bias": (2,)})
IDENTITY = TrainingIdentity("recipe", "data")
ZEROS = torch.zeros(LAYOUT.size)
FIRST = OuterState(ZEROS, ZEROS, 0, 0)


def make_state(seed: int = 0) -> OuterState:
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(LAYOUT.size, generator=generator)
    return OuterState(parameters, parameters.square() * 1e-12, 2**40 + seed, 1234 + seed)


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let writes fail beyond a size, as on a full disk: with a real error in the midst of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read(path: Path) -> OuterState:
    return read_checkpoint(path, LAYOUT, IDENTITY, FIRST)


def assert_equal(left: OuterState, right: OuterState) -> None:
    assert torch.equal(left.parameters, right.parameters)
    assert torch.equal(left.second_moment, right.second_moment)
    assert (left.step, left.meta_iteration) == (right.step, right.meta_iteration)


def test_a_checkpoint_gives_back_every_bit_and_replaces_the_last(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    for seed in (1, 2):
        write_checkpoint(path, make_state(seed), LAYOUT, IDENTITY)
        first = path.read_bytes()
        write_checkpoint(path, make_state(seed), LAYOUT, IDENTITY)

        assert path.read_bytes() == first
        assert_equal(read(path), make_state(seed))
    assert list(tmp_path.iterdir()) == [path]


def test_moments_of_the_outer_gradient_come_back_too_and_zeros_take_no_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    first = replace(FIRST, moments=OuterMoments(ZEROS, ZEROS))
    state = replace(make_state(3), second_moment=ZEROS, step=0)
    moved = replace(state, moments=OuterMoments(state.parameters * 2, state.parameters.square()))
    for written in (replace(state, moments=OuterMoments(ZEROS, ZEROS)), moved):
        write_checkpoint(path, written, LAYOUT, IDENTITY)
        found = read_checkpoint(path, LAYOUT, IDENTITY, first)

        assert_equal(found, written)
        assert found.moments is not None
        assert written.moments is not None
        assert all(map(torch.equal, found.moments, written.moments))
        with safe_open(path, framework="pt") as file:
            assert not any(name.startswith("second_moment.") for name in file.keys())  # noqa: SIM118 -- not a dict


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, make_state(1), LAYOUT, IDENTITY)

    with (
        files_of_at_most(path.stat().st_size // 2),
        pytest.raises(TrainingError, match=r"could not be written: .*; the last one is"),
    ):
        write_checkpoint(path, make_state(2), LAYOUT, IDENTITY)

    assert_equal(read(path), make_state(1))
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_left_behind_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, make_state(1), LAYOUT, IDENTITY)
    (tmp_path / ".checkpoint.safetensors.partial").write_bytes(b"half")

    assert_equal(read(path), make_state(1))
    write_checkpoint(path, make_state(2), LAYOUT, IDENTITY)
    assert_equal(read(path), make_state(2))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        pytest.param(
            replace(IDENTITY, recipe_digest="other"),
            'cannot be resumed: its recipe_digest is "recipe", expected "other"',
            id="recipe",
        ),
        pytest.param(
            replace(IDENTITY, data_digest="other"),
            'cannot be resumed: its data_digest is "data", expected "other"',
            id="data",
        ),
    ],
)
def test_another_training_is_refused(
    tmp_path: Path, identity: TrainingIdentity, message: str
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, make_state(), LAYOUT, IDENTITY)
    before = path.read_bytes()

    with pytest.raises(TrainingError) as caught:
        read_checkpoint(path, LAYOUT, identity, FIRST)

    assert str(caught.value) == f"checkpoint {path} {message}"
    assert path.read_bytes() == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


METADATA = {"recipe_digest": "recipe", "data_digest": "data"}


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["second_moment.head.bias"]
    save_file(tensors, path, METADATA)


def widen_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors["parameters.head.bias"] = torch.zeros(3)
    save_file(tensors, path, METADATA)


def forget_the_iteration(path: Path) -> None:
    tensors = load_file(path)
    del tensors["meta_iteration"]
    save_file(tensors, path, METADATA)


def change_the_iteration(path: Path) -> None:
    """Every other byte stays, those of the metadata among them."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["meta_iteration"] += 1
    save_file(tensors, path, metadata)


def forget_the_digest(path: Path) -> None:
    save_file(load_file(path), path, METADATA)


def change_a_number(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged: "),
        (empty, "is damaged: "),
        (scribble, "is damaged: "),
        (drop_a_tensor, "is damaged: second_moment.head.bias is missing"),
        (widen_a_tensor, r"is damaged: parameter head.bias: expected shape .*, got \(3,\)"),
        (forget_the_iteration, "is damaged: meta_iteration is missing"),
        (forget_the_digest, "is damaged: tensors_sha256 is missing"),
        (change_a_number, "is damaged: its digest is not that of its numbers"),
        (change_the_iteration, "is damaged: its digest is not that of its numbers"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, make_state(), LAYOUT, IDENTITY)
    damage(path)
    before = path.read_bytes()

    with pytest.raises(TrainingError, match=message) as caught:
        read(path)

    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_checkpoint_that_has_no_place_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint.safetensors"
    (folder / "of somebody").mkdir(parents=True)
    file = tmp_path / "file"
    file.touch()
    blocked = tmp_path / "blocked.safetensors"
    (tmp_path / ".blocked.safetensors.partial" / "of somebody").mkdir(parents=True)
    write_checkpoint(tmp_path / "good.safetensors", make_state(1), LAYOUT, IDENTITY)
    blocked.write_bytes((tmp_path / "good.safetensors").read_bytes())

    for path in (folder, file / "checkpoint", tmp_path / "none" / "checkpoint", blocked):
        with pytest.raises(TrainingError, match=r"could not be written: .*; the last one is"):
            write_checkpoint(path, make_state(2), LAYOUT, IDENTITY)

    assert (folder / "of somebody").is_dir()
    assert not (tmp_path / ".checkpoint.safetensors.partial").exists()
    assert_equal(read(blocked), make_state(1))


def test_a_missing_checkpoint_and_a_folder_in_its_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^there is no checkpoint .* to resume from$"):
        read(tmp_path / "none")
    with pytest.raises(TrainingError, match="cannot be read: "):
        read(tmp_path)
