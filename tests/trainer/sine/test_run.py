import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kshot.learner import CompilationError, InnerStep, StepSpec
from kshot.trainer.errors import TrainingError
from kshot.trainer.loop import step_compilation
from kshot.trainer.loop.run import CHECKPOINT_FILE, TrainingReport
from kshot.trainer.loop.workers import Workers
from kshot.trainer.output.curve_file import CURVES_FILE, PLOT_FILE
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.evaluation import SineFits
from kshot.trainer.sine.run import RESULT_FILE, sine_training, train_sine

CPU = torch.device("cpu")
BRIEF = (
    *("network.arguments.hidden_units=8", "outer.meta_iterations=6", "evaluation.task_count=3"),
    *("evaluation.step_counts=[0, 2]", "evaluation.interval=3"),
)


def brief(*settings: str) -> SineRecipe:
    recipe = load_recipe("sine", (*BRIEF, *settings))
    assert isinstance(recipe, SineRecipe)
    return recipe


def run(
    recipe: SineRecipe,
    out: Path,
    *,
    resume: bool = False,
    compiled: bool | None = False,
    report: Callable[[TrainingReport], None] = lambda _report: None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> SineFits:
    return train_sine(
        recipe, out, resume=resume, device=CPU, compiled=compiled, report=report, say=say
    )


def test_a_training_ends_with_its_errors_and_its_curves(tmp_path: Path) -> None:
    measured = run(brief(), tmp_path)

    result = json.loads((tmp_path / RESULT_FILE).read_bytes())
    assert result == measured.document()
    assert [row["step_count"] for row in result["rows"]] == [0, 2]
    points = json.loads((tmp_path / CURVES_FILE).read_bytes())["points"]
    assert [point["meta_iteration"] for point in points] == [0, 3, 6]
    assert [points[-1][f"squared_error/{count}_steps"] for count in (0, 2)] == [
        row["squared_error"] for row in result["rows"]
    ]
    assert (tmp_path / PLOT_FILE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small_bundle")
def test_a_training_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    run(brief(), tmp_path)
    before = (tmp_path / CHECKPOINT_FILE).read_bytes()

    with pytest.raises(TrainingError, match="holds a training already; resume it or name"):
        run(brief(), tmp_path)
    with pytest.raises(TrainingError, match=r"; outer\.seed is 0, here 1$"):
        run(brief("outer.seed=1"), tmp_path, resume=True)

    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == before


@pytest.mark.usefixtures("small_bundle")
def test_a_disk_that_is_full_at_the_end_costs_the_result_alone(tmp_path: Path) -> None:
    recipe = brief()
    run(recipe, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(report: TrainingReport) -> None:
        if report.meta_iteration == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))

    try:
        with pytest.raises(TrainingError, match=r"result\.json could not be written: File too"):
            run(recipe, tmp_path / "full", report=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run(recipe, tmp_path / "full", resume=True)

    for name in (CHECKPOINT_FILE, CURVES_FILE, RESULT_FILE):
        full, whole = (tmp_path / folder / name for folder in ("full", "whole"))
        assert full.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("small_bundle")
def test_a_step_that_one_process_cannot_compile_is_compiled_in_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that compute differently would not be refused, but learn from other numbers."""

    def compile_step(spec: StepSpec, _device: torch.device) -> InnerStep:
        return spec.build()

    said: list[str] = []
    monkeypatch.setattr(step_compilation, "compiler_name", lambda _device: "c++")
    monkeypatch.setattr(step_compilation, "compile_step", compile_step)
    monkeypatch.setattr(Workers, "agree", lambda _workers, _text: False)
    run(brief(), tmp_path, compiled=None, say=said.append)

    assert said == [
        "compiling the inner step",
        "some process cannot compile the inner step; the training is slower without",
    ]


def test_the_trial_of_a_compiled_step_waits_for_no_other_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other one may have failed to compile: they would exchange unequal messages."""
    recipe = brief("outer.meta_batch=stacked", "outer.meta_batch_size=2")
    training = sine_training(recipe, CPU, Workers(0, 2))
    compiled: list[StepSpec] = []

    def compile_step(spec: StepSpec, _device: torch.device) -> InnerStep:
        compiled.append(spec)
        return spec.build()

    monkeypatch.setattr(step_compilation, "compile_step", compile_step)
    monkeypatch.setattr(Workers, "agree", lambda _workers, _text: True)
    loop = step_compilation.compiled_loop(
        training.loop, recipe, training.first, compiled=True, say=lambda _sentence: None
    )

    assert [spec.task_count for spec in compiled] == [1]  # of two tasks
    assert not loop.workers.apart


def test_a_step_that_must_be_compiled_and_cannot_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_spec: StepSpec, _device: torch.device) -> InnerStep:
        raise CompilationError("no working compiler")

    monkeypatch.setattr(step_compilation, "compile_step", fail)
    with pytest.raises(TrainingError, match=r"^no working compiler$"):
        run(brief(), tmp_path / "out", compiled=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small_bundle")
def test_a_network_that_normalizes_over_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"expected a network without batch norm .*, got mlp"):
        run(brief("network.arguments.batch_norm=true"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
