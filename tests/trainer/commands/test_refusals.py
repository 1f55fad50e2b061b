"""What `kshot train` does not do, it refuses with one sentence, and leaves what was trained."""

import csv
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.__main__ import main
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.run import CHECKPOINT_FILE
from kshot.trainer.output import curve_file
from kshot.trainer.tasks.training_tasks import SupportBatch

CLASSES = {"train": [f"train{number}" for number in range(6)], "test": ["a", "b", "c", "d"]}
SPLIT = "split.csv"
SETTINGS = (
    *("data.dataset=folder", "data.folder=letters", f"data.split=file:{SPLIT}"),
    *("data.rotations=false", "network.arguments.filters=4", "task.way=3", "task.shot=2"),
    *("inner.batch_size=3", "inner.step_count=2", "outer.meta_iterations=6"),
    *("outer.meta_batch_size=2", "evaluation.way=3", "evaluation.task_count=2"),
    *("evaluation.step_count=2", "evaluation.interval=3", "evaluation.checkpoint_interval=1"),
    *("evaluation.table.task_count=2", "evaluation.table.step_count=3", "serving.step_count=4"),
)


@dataclass(frozen=True)
class Workplace:
    """A data folder, and a training that was interrupted after four meta-iterations."""

    folder: Path

    @property
    def letters(self) -> Path:
        return self.folder / "data" / "letters"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def train(self, *more: str, out: Path | None = None, recipe: str = "omniglot-5way") -> int:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        arguments = ["--out", str(out or self.out), "--data", str(self.folder / "data")]
        return main(
            ["train", recipe, *arguments, "--device", "cpu", "--no-compile", *settings, *more]
        )

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.out.iterdir()}


def write_split(path: Path, classes: dict[str, list[str]]) -> None:
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["class", "part"])
        rows.writerows((name, part) for part, names in classes.items() for name in names)


@contextmanager
def interrupted_before(meta_iteration: int) -> Iterator[None]:
    advance = OuterLoop.advance

    def stop(loop: OuterLoop, state: OuterState, drawn: SupportBatch) -> object:
        if state.meta_iteration == meta_iteration:
            raise KeyboardInterrupt
        return advance(loop, state, drawn)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OuterLoop, "advance", stop)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the workplace that each test copies."""
    place = Workplace(tmp_path_factory.mktemp("prepared"))
    generator = np.random.default_rng(0)
    for name in [name for names in CLASSES.values() for name in names]:
        (place.letters / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (28, 28)).astype(np.uint8)
            Image.fromarray(pixels).save(place.letters / name / f"{number}.png")
    write_split(place.letters / SPLIT, CLASSES)
    with pytest.MonkeyPatch.context() as patch, interrupted_before(4):
        patch.setenv("XDG_CACHE_HOME", str(place.folder / "cache"))
        for name in ("figure_of", "write_png"):
            patch.setattr(curve_file, name, lambda *_: None)
        assert place.train() == 130
    return place.folder


@pytest.fixture
def workplace(
    prepared: Path,
    tmp_path: Path,
    small_bundle: None,  # noqa: ARG001 -- asked for its effect
    monkeypatch: pytest.MonkeyPatch,
) -> Workplace:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return Workplace(tmp_path)


def corrupt_an_image(place: Workplace) -> None:
    (place.letters / "train3" / "2.png").write_bytes(b"no image")


def cut_an_image(place: Workplace) -> None:
    path = place.letters / "train3" / "2.png"
    path.write_bytes(path.read_bytes()[:200])


def lose_an_image(place: Workplace) -> None:
    """A link to nowhere, as of a disk that is not there."""
    path = place.letters / "train3" / "2.png"
    path.unlink()
    path.symlink_to(place.folder / "nowhere.png")


def lose_all_images_of_a_class(place: Workplace) -> None:
    for path in (place.letters / "train3").iterdir():
        path.unlink()


def lose_a_class(place: Workplace) -> None:
    shutil.rmtree(place.letters / "train3")


def name_a_class_twice(place: Workplace) -> None:
    write_split(place.letters / SPLIT, {**CLASSES, "val": ["train3"]})


def lose_the_split(place: Workplace) -> None:
    (place.letters / SPLIT).unlink()


def nothing(_place: Workplace) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "settings", "code", "message"),
    [
        (nothing, ("inner.colour=3",), 2, "inner.colour"),
        (nothing, ("colour=3",), 2, "colour: unknown key; expected one of"),
        (nothing, ("inner.step_count=many",), 2, "inner.step_count: expected an integer"),
        (nothing, ("task.way=7",), 1, "way: expected at most the 6 classes of"),
        (nothing, ("evaluation.way=5",), 1, "way: expected at most the 4 classes of"),
        (nothing, ("task.shot=7",), 1, "7 support and 0 query images per class: expected"),
        (nothing, ("evaluation.shot=6",), 1, "6 support and 1 query images per class: expected"),
        (nothing, ("evaluation.table.shots=[1, 6]",), 1, "6 support and 1 query images"),
        (nothing, ("network.arguments.colour=3",), 1, "colour"),
        (nothing, ("network.name=brain",), 1, "brain"),
        (
            nothing,
            ("data.split=halves",),
            1,
            "split of folder letters: expected parts, file:NAME.csv, seed:N or held-out:N",
        ),
        (
            nothing,
            ("data.folder=../letters",),
            1,
            "data.folder: expected a relative path without '..'",
        ),
        (corrupt_an_image, (), 1, "train3/2.png"),
        (cut_an_image, (), 1, "train3/2.png"),
        (lose_an_image, (), 1, "train3/2.png"),
        (lose_all_images_of_a_class, (), 1, "train3"),
        (lose_a_class, (), 1, "class 'train3' has no folder"),
        (name_a_class_twice, (), 1, "class 'train3' appears twice"),
        (lose_the_split, (), 1, "cannot read"),
    ],
)
def test_nonsense_is_refused_without_damage(
    workplace: Workplace,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Workplace], None],
    settings: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    before = workplace.contents()
    damage(workplace)
    more = [word for setting in settings for word in ("--set", setting)]
    new = workplace.folder / "new"

    codes = [workplace.train("--resume", *more), workplace.train(*more, out=new)]

    printed = capsys.readouterr()
    assert codes == [code, code]
    assert printed.out == ""
    refusals = [line for line in printed.err.splitlines() if not line.startswith("reading ")]
    assert len(refusals) == 2
    assert all(line.startswith("kshot: ") and message in line for line in refusals), refusals
    assert workplace.contents() == before
    assert not new.exists()


def test_a_recipe_file_with_an_unknown_key_is_refused(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = workplace.contents()
    path = workplace.folder / "mine.toml"
    path.write_text('name = "mine"\ncolour = "red"\n')

    assert workplace.train("--resume", recipe=str(path)) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kshot: ")
    assert workplace.contents() == before


@pytest.mark.parametrize(
    ("settings", "more_images", "message"),
    [
        (("outer.seed=1",), False, "; outer.seed is 0, here 1"),
        ((), True, "its data_digest is"),
    ],
)
def test_another_training_is_not_resumed(
    workplace: Workplace,
    capsys: pytest.CaptureFixture[str],
    settings: tuple[str, ...],
    more_images: bool,
    message: str,
) -> None:
    before = workplace.contents()
    if more_images:
        shutil.copy(workplace.letters / "a" / "0.png", workplace.letters / "train3" / "more.png")

    code = workplace.train("--resume", *(w for setting in settings for w in ("--set", setting)))

    assert code == 1
    refusal = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be resumed: its " in refusal
    assert message in refusal
    assert workplace.contents() == before


def test_an_unusable_folder_is_refused(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = workplace.contents()
    file = workplace.folder / "file"
    file.write_text("of somebody")
    empty = workplace.folder / "empty"
    empty.mkdir()

    codes = [
        workplace.train(),
        workplace.train(out=file),
        workplace.train(out=file / "below"),
        workplace.train("--resume", out=empty),
    ]

    refusals = [line for line in capsys.readouterr().err.splitlines() if line[:6] == "kshot:"]
    assert codes == [2, 2, 2, 1]
    assert len(refusals) == 4
    assert "not empty" in refusals[0]
    assert f"--out: cannot write to {file}: " in refusals[2]
    assert "there is no checkpoint" in refusals[3]
    assert workplace.contents() == before
    assert file.read_text() == "of somebody"
    assert list(empty.iterdir()) == []


def test_a_damaged_checkpoint_is_refused(
    workplace: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = workplace.out / CHECKPOINT_FILE
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    damaged = workplace.contents()

    assert workplace.train("--resume") == 1
    assert " is damaged: " in capsys.readouterr().err.splitlines()[-1]
    assert workplace.contents() == damaged
    checkpoint.unlink()
    checkpoint.mkdir()
    assert workplace.train("--resume") == 1
    assert " cannot be read: " in capsys.readouterr().err.splitlines()[-1]


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let writes fail beyond a size, as on a full disk: with a real error in the midst of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("size_bytes", "name"),
    [(4096, CHECKPOINT_FILE), (1000, "recipe.json"), (60, "recipe.json")],
)
def test_a_full_disk_leaves_the_checkpoint(
    workplace: Workplace, capsys: pytest.CaptureFixture[str], size_bytes: int, name: str
) -> None:
    whole = workplace.folder / "whole"
    assert workplace.train(out=whole) == 0
    before = (workplace.out / CHECKPOINT_FILE).read_bytes()
    capsys.readouterr()

    with files_of_at_most(size_bytes):
        assert workplace.train("--resume") == 1
    refusal = capsys.readouterr().err.splitlines()[-1]
    assert refusal.startswith("kshot: ")
    assert f"{name} could not be written: File too large" in refusal
    assert (workplace.out / CHECKPOINT_FILE).read_bytes() == before
    assert not any(path.suffix == ".partial" for path in workplace.out.iterdir())

    assert workplace.train("--resume") == 0
    for file in (CHECKPOINT_FILE, "curves.json", "omniglot/1/weights.safetensors"):
        assert (workplace.out / file).read_bytes() == (whole / file).read_bytes()
