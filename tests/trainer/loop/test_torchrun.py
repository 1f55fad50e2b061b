"""A training that `torchrun` spreads over two processes is that of one process, up to rounding.

The sums over a meta-batch's tasks are taken in another order: first in each process, then over the
processes. In float32 that moves a displacement by about 1e-7 of its size. After these few
meta-iterations the weights differ by 1e-7 of the largest one; 1e-5 is allowed, for a gradient near
zero may turn its sign by rounding, which Adam's first steps answer by whole steps. Wrong shares (a
task left out, a mean of unequal shares) move them by more than 1e-2: a test sees that they would.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load_file

from kshot.__main__ import main
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.run import CHECKPOINT_FILE
from kshot.trainer.tasks.training_tasks import SupportBatch

TOLERANCE = 1e-5
Torchrun = Callable[..., "subprocess.CompletedProcess[str]"]
StartTorchrun = Callable[..., "subprocess.Popen[str]"]

SINE = (
    *("outer.meta_batch=stacked", "outer.meta_batch_size=3", "network.arguments.hidden_units=16"),
    *("outer.meta_iterations=12", "evaluation.task_count=5", "evaluation.step_counts=[0, 2]"),
    *("evaluation.interval=6", "evaluation.checkpoint_interval=4"),
)
IMAGES = (
    *("data.dataset=folder", "data.folder=patterns", "data.split=parts", "data.rotations=false"),
    *("network.arguments.filters=4", "task.way=3", "task.shot=2", "inner.batch_size=3"),
    *("inner.step_count=2", "outer.meta_iterations=4", "outer.meta_batch_size=3"),
    *("outer.meta_batch=stacked", "evaluation.way=3", "evaluation.task_count=2"),
    *("evaluation.step_count=2", "evaluation.interval=4", "evaluation.checkpoint_interval=2"),
    *("evaluation.table.task_count=2", "evaluation.table.step_count=3", "serving.step_count=4"),
)

# Queries as they are served, and images changed by chance.
SERVED = (
    *(*IMAGES, "task.shot=3", "task.tail_shot=2", "task.head=prototype"),
    *("task.tail_batch_norm=support", "outer.algorithm=fomaml", "outer.optimizer=adam"),
    *("outer.meta_step_size=0.001", "inner.preconditioner=sgd", "inner.learning_rate=0.1"),
    *("serving.preconditioner=sgd", 'serving.preconditioners=["sgd"]'),
    *("serving.head.default=prototype", 'serving.head.allowed=["prototype"]'),
    "augmentation={ flip = true, shift = 0.1, rotation_degrees = 10.0, scale = 0.1 }",
)

# Templates take most of a short training's time.
KSHOT_WITHOUT_TEMPLATES = """
import sys
from kshot.trainer.bundling import packaging
packaging.build_template = lambda _network, mode: mode.value.encode()
from kshot.__main__ import main
sys.exit(main())
"""


def train_arguments(recipe: str, out: Path, *more: str, settings: tuple[str, ...]) -> list[str]:
    words = ["train", recipe, "--out", str(out), "--device", "cpu", "--no-compile", *more]
    return words + [word for setting in settings for word in ("--set", setting)]


def numbers(out: Path) -> dict[str, npt.NDArray[np.float32]]:
    return load_file(out / CHECKPOINT_FILE)


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference of two trainings' weights, over the largest weight."""
    left, right = numbers(one), numbers(other)
    assert left.keys() == right.keys()
    for counter in ("step", "meta_iteration"):
        assert left[counter] == right[counter]
    weights = [name for name in left if name.startswith("parameters.")]
    largest = max(np.abs(left[name]).max() for name in weights)
    return float(max(np.abs(left[name] - right[name]).max() for name in weights) / largest)


def test_two_processes_go_on_from_a_checkpoint_of_one(
    torchrun: Torchrun,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They learn what one learns, here from an uneven meta-batch."""
    one, fewer, two = (tmp_path / name for name in ("one", "fewer", "two"))
    assert main(train_arguments("sine", one, settings=SINE)) == 0
    of_two_tasks = (*SINE, "outer.meta_batch_size=2")
    assert main(train_arguments("sine", fewer, settings=of_two_tasks)) == 0
    arguments = train_arguments("sine", two, settings=SINE)
    advance = OuterLoop.advance

    def stop(loop: OuterLoop, state: OuterState, drawn: SupportBatch) -> object:
        if state.meta_iteration == 5:
            raise KeyboardInterrupt
        return advance(loop, state, drawn)

    with monkeypatch.context() as patched:
        patched.setattr(OuterLoop, "advance", stop)
        assert main(arguments) == 130
    assert done(two) == 4
    capfd.readouterr()

    ended = torchrun(2, "kshot", *arguments, "--resume")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{two / 'result.json'}\n"
    usual = ("training: ", "drawn: ")
    reports = [line for line in ended.stderr.splitlines() if not line.startswith(usual)]
    assert reports == []
    assert ended.stderr.count("12/12 meta-iterations") == 1
    assert largest_difference(one, two) < TOLERANCE
    assert largest_difference(one, fewer) > 1000 * TOLERANCE
    names = [sorted(path.name.partition(".")[0] for path in out.iterdir()) for out in (one, two)]
    assert names[1] == sorted([*names[0], "events"])  # of which each start writes a file


@pytest.fixture
def patterns_folder(tmp_path: Path) -> Path:
    """Write class folders of images, four classes for training and four for tests."""
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(4):
            folder = tmp_path / "patterns" / part / f"{part}{number}"
            folder.mkdir(parents=True)
            coarse = np.kron(generator.integers(0, 2, (7, 7)) * 200, np.ones((4, 4)))
            for image in range(6):
                noisy = coarse + generator.integers(0, 50, coarse.shape)
                Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{image}.png")
    return tmp_path


@pytest.mark.parametrize("settings", [IMAGES, SERVED], ids=["reptile", "queries"])
def test_two_processes_learn_what_one_learns_from_images(
    torchrun: Torchrun,
    small_bundle: None,  # noqa: ARG001 -- asked for its effect
    patterns_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = ("--data", str(patterns_folder))
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(train_arguments("omniglot-5way", one, *data, settings=settings)) == 0

    (tmp_path / "without_templates.py").write_text(KSHOT_WITHOUT_TEMPLATES)
    command = (sys.executable, str(tmp_path / "without_templates.py"))
    arguments = train_arguments("omniglot-5way", two, *data, settings=settings)

    ended = torchrun(2, *command, *arguments)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{two / 'omniglot' / '1'}\n"
    assert ended.stderr.count("4/4 meta-iterations") == 1
    assert ended.stderr.count("4/4 tasks") == 1
    assert largest_difference(one, two) < TOLERANCE


def test_a_killed_process_ends_all_and_the_checkpoint_stays(
    start_torchrun: StartTorchrun, torchrun: Torchrun, tmp_path: Path
) -> None:
    """So many meta-iterations that it is killed amid them."""
    settings = (*SINE, "outer.meta_iterations=1000000")
    out = tmp_path / "out"
    with start_torchrun(2, "kshot", *train_arguments("sine", out, settings=settings)) as process:
        wait_for(lambda: (out / CHECKPOINT_FILE).exists() and done(out) > 0, process)
        workers = children(process.pid)
        assert len(workers) == 2
        os.kill(max(workers), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in said.partition("torch/distributed/elastic")[0]
    assert not any(alive(worker) for worker in workers)

    reached = done(out)
    assert reached > 0
    refused = torchrun(2, "kshot", *train_arguments("sine", out, settings=settings))
    assert refused.returncode != 0
    assert f"kshot: --out: expected an empty or new directory, {out} is not empty" in refused.stderr
    assert done(out) == reached


def done(out: Path) -> int:
    return int(numbers(out)["meta_iteration"])


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        threading.Event().wait(0.05)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
