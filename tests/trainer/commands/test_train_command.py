"""How `kshot train` ends when it is stopped, or resumed when it was done."""

import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kshot.__main__ import main
from kshot.learner import CompilationError, InnerStep, StepSpec
from kshot.trainer.commands import data_parts
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.loop import step_compilation
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.run import CHECKPOINT_FILE
from kshot.trainer.recipe.recipe import Data
from kshot.trainer.tasks.training_tasks import SupportBatch

SETTINGS = (
    *("network.arguments.filters=4", "task.way=3", "task.shot=2", "inner.batch_size=3"),
    *("inner.step_count=2", "outer.meta_iterations=6", "outer.meta_batch_size=2"),
    *("evaluation.way=3", "evaluation.task_count=2", "evaluation.step_count=2"),
    *("evaluation.table.task_count=2", "evaluation.table.step_count=3", "serving.step_count=4"),
)
Train = Callable[..., int]


@pytest.fixture
def train(
    patterns: Callable[..., ImageDataset],
    small_bundle: None,  # noqa: ARG001 -- asked for its effect
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Train:
    def read_dataset(_data: Data, _folder: Path, part: str, **_: object) -> ImageDataset:
        return patterns(seed=("train", "test", "val").index(part))

    monkeypatch.setattr(data_parts, "read_dataset", read_dataset)

    def call(out: Path, *more: str, compiled: bool | None = False) -> int:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        arguments = ["--out", str(out), "--data", str(tmp_path), "--device", "cpu"]
        if compiled is not None:
            arguments.append("--compile" if compiled else "--no-compile")
        return main(["train", "omniglot-5way", *arguments, *settings, *more])

    return call


def signal_before(meta_iteration: int, number: signal.Signals) -> Callable[..., object]:
    """Return an `advance` that lets this process get a signal before a meta-iteration."""
    advance = OuterLoop.advance

    def advance_or_stop(loop: OuterLoop, state: OuterState, tasks: SupportBatch) -> object:
        if state.meta_iteration == meta_iteration:
            signal.raise_signal(number)
        return advance(loop, state, tasks)

    return advance_or_stop


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_resumes(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    out = tmp_path / "out"
    handler = signal.getsignal(signal.SIGTERM)
    assert train(tmp_path / "whole") == 0
    capsys.readouterr()

    with monkeypatch.context() as patched:
        patched.setattr(OuterLoop, "advance", signal_before(4, number))
        assert train(out) == code
    stopped = capsys.readouterr()
    assert stopped.out == ""
    (line,) = stopped.err.splitlines()
    reason, _, again = line.partition("; to continue: ")
    assert reason == f"kshot: stopped by {number.name}"
    assert signal.getsignal(signal.SIGTERM) is handler

    assert main(shlex.split(again)[1:]) == 0
    resumed = capsys.readouterr()
    assert resumed.out == f"{out / 'omniglot' / '1'}\n"
    assert "training: 6/6 meta-iterations" in resumed.err
    assert "measuring the bundle: 4/4 tasks" in resumed.err
    for name in (CHECKPOINT_FILE, "omniglot/1/manifest.json", "omniglot/1/weights.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_training_names_its_bundle(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(out) == 0
    first = capsys.readouterr()

    assert train(out, "--resume") == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err == f"the training in {out} is finished already: its result is\n"


def compiler_found(_device: torch.device) -> str:
    return "c++"


def compile_and_fail(_spec: StepSpec, _device: torch.device) -> InnerStep:
    raise CompilationError("the inner step cannot be compiled: no working compiler")


def test_a_training_runs_without_a_compiler(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(step_compilation, "compiler_name", compiler_found)
    monkeypatch.setattr(step_compilation, "compile_step", compile_and_fail)
    assert train(tmp_path / "plain") == 0
    capsys.readouterr()

    assert train(tmp_path / "out", compiled=None) == 0
    assert capsys.readouterr().err.splitlines()[:2] == [
        "compiling the inner step",
        "the inner step cannot be compiled: no working compiler; the training is slower without",
    ]
    weights = "omniglot/1/weights.safetensors"
    plain, fallen_back = ((tmp_path / name / weights).read_bytes() for name in ("plain", "out"))
    assert fallen_back == plain

    assert train(tmp_path / "forced", compiled=True) == 1
    assert capsys.readouterr().err.splitlines() == [
        "compiling the inner step",
        "kshot: the inner step cannot be compiled: no working compiler",
    ]
    assert not (tmp_path / "forced").exists()


def test_compiled_steps_run_before_writing(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[bool] = []

    def compile_step(spec: StepSpec, _device: torch.device) -> InnerStep:
        step = spec.build()

        def watched(*arguments: torch.Tensor) -> torch.Tensor:
            seen.append((tmp_path / "out").exists())
            return step(*arguments)

        return watched

    monkeypatch.setattr(step_compilation, "compiler_name", compiler_found)
    monkeypatch.setattr(step_compilation, "compile_step", compile_step)
    assert train(tmp_path / "plain") == 0
    capsys.readouterr()

    assert train(tmp_path / "out", compiled=None) == 0

    assert capsys.readouterr().err.startswith("compiling the inner step\n")
    steps = 2 * 2  # of a meta-iteration
    assert seen == [False] * steps + [True] * 6 * steps
    for name in (CHECKPOINT_FILE, "omniglot/1/weights.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
