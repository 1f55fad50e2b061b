"""A training that is stopped, by whatever, and goes on."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from kshot.bundle import BundleError
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.learning_curve import Curves
from kshot.trainer.loop.image_run import train
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.run import CHECKPOINT_FILE, TrainingReport
from kshot.trainer.recipe.parsing import parse_recipe
from kshot.trainer.recipe.record import RECIPE_FILE
from kshot.trainer.tasks.meta_batch import ImageTasks
from kshot.trainer.tasks.training_tasks import SupportBatch

from .whole_trainings import Patterns, Recipes, Run, contents, curve, ignore

CPU = torch.device("cpu")


def test_an_interrupted_training_keeps_a_checkpoint_of_what_it_recorded(
    small_recipe: Recipes, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe("evaluation.checkpoint_interval=100", "evaluation.interval=4")
    run(recipe, tmp_path / "whole")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Curves, "measure", interrupt)
        run(recipe, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "stopped", resume=True, report=interrupt)
    reports: list[TrainingReport] = []
    with pytest.raises(KeyboardInterrupt):
        run(
            recipe,
            tmp_path / "stopped",
            resume=True,
            report=reports.append,
            report_table=interrupt,
        )
    run(recipe, tmp_path / "stopped", resume=True, report=interrupt)

    assert [report.meta_iteration for report in reports] == [6]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert curve(tmp_path / "stopped", "accuracy/test/support") == [0, 4, 6]


def test_a_disk_that_fills_up_costs_nothing_but_the_time_since_the_last_checkpoint(
    small_recipe: Recipes, run: Run, tmp_path: Path
) -> None:
    recipe = small_recipe()
    run(recipe, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(report: TrainingReport) -> None:
        if report.meta_iteration == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(TrainingError, match="could not be written: "):
            run(recipe, tmp_path / "full", report=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    reports: list[TrainingReport] = []
    run(recipe, tmp_path / "full", resume=True, report=reports.append)

    assert reports[0].meta_iteration == 5
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_finished_training_is_left_as_it_is(
    small_recipe: Recipes, run: Run, tmp_path: Path
) -> None:
    folder = run(small_recipe(), tmp_path)
    before = contents(tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError

    assert run(small_recipe(), tmp_path, resume=True, report=refuse, report_table=refuse) == folder
    assert contents(tmp_path) == before
    with pytest.raises(TrainingError, match="holds a training already; resume it or"):
        run(small_recipe(), tmp_path)
    (tmp_path / CHECKPOINT_FILE).unlink()
    with pytest.raises(TrainingError, match="holds a training already; resume it or"):
        run(small_recipe(), tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(before[CHECKPOINT_FILE])
    (folder / "README.md").write_text("damaged")
    with pytest.raises(BundleError, match=r"README\.md: expected .* bytes .*, got 7"):
        run(small_recipe(), tmp_path, resume=True)


def test_another_training_is_not_resumed(
    small_recipe: Recipes, run: Run, patterns: Patterns, tmp_path: Path
) -> None:
    run(small_recipe(), tmp_path / "out")
    before = contents(tmp_path / "out")

    record = tmp_path / "out" / RECIPE_FILE
    assert parse_recipe(json.loads(record.read_bytes()), "recorded") == small_recipe()
    with pytest.raises(
        TrainingError,
        match=r'"; network\.arguments\.filters is 4, here 5, outer\.seed is 0, here 1$',
    ):
        run(
            small_recipe("outer.seed=1", "network.arguments.filters=5", "cost=none"),
            tmp_path / "out",
            resume=True,
        )
    for damaged in (b"{", b"3", b""):
        record.write_bytes(damaged)
        with pytest.raises(TrainingError, match="cannot be resumed: its recipe_digest is"):
            run(small_recipe("outer.seed=1"), tmp_path / "out", resume=True)
    record.unlink()  # as in a folder to which only the checkpoint was copied
    with pytest.raises(TrainingError, match=r'cannot be resumed: its recipe_digest is \S+, .*"$'):
        run(small_recipe("outer.seed=1"), tmp_path / "out", resume=True)
    with pytest.raises(TrainingError, match="cannot be resumed: its data_digest is"):
        train(
            *(small_recipe(), patterns(seed=2), patterns(seed=1), tmp_path / "out"),
            resume=True,
            device=CPU,
            compiled=False,
            report=ignore,
        )
    with pytest.raises(TrainingError, match="there is no checkpoint"):
        run(small_recipe(), tmp_path / "none", resume=True)
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "none").exists()

    run(small_recipe("outer.seed=1"), tmp_path / "other")
    shutil.copytree(
        tmp_path / "other" / "omniglot", tmp_path / "out" / "omniglot", dirs_exist_ok=True
    )
    with pytest.raises(
        TrainingError, match="is the bundle of another training; name another folder"
    ):
        run(small_recipe(), tmp_path / "out", resume=True)


def test_a_second_moment_that_overflows_is_divergence(
    small_recipe: Recipes, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameter stands still from then on, and neither it nor the loss shows that."""
    advance = OuterLoop.advance

    def overflow(
        loop: OuterLoop, state: OuterState, tasks: SupportBatch | None = None
    ) -> tuple[OuterState, torch.Tensor]:
        advanced, loss = advance(loop, state, tasks)
        if advanced.meta_iteration == 3:
            advanced.second_moment[7] = torch.inf
        return advanced, loss

    monkeypatch.setattr(OuterLoop, "advance", overflow)
    reports: list[TrainingReport] = []
    with pytest.raises(TrainingError, match=r"^training diverged: at meta-iteration 3 the inner"):
        run(small_recipe(), tmp_path, report=reports.append)
    monkeypatch.setattr(OuterLoop, "advance", advance)
    run(small_recipe(), tmp_path, resume=True, report=reports.append)

    assert [report.meta_iteration for report in reports] == [1, 2, 3, 4, 5, 6]


def test_a_draw_that_fails_ends_the_training_where_it_was_wanted(
    small_recipe: Recipes, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe()
    run(recipe, tmp_path / "whole")
    draw = ImageTasks.draw

    def fail(tasks: ImageTasks, meta_iteration: int) -> SupportBatch:
        if meta_iteration == 3:
            raise MemoryError("no room for the fourth")
        return draw(tasks, meta_iteration)

    reports: list[TrainingReport] = []
    with monkeypatch.context() as patched, pytest.raises(MemoryError, match="for the fourth"):
        patched.setattr(ImageTasks, "draw", fail)
        run(recipe, tmp_path / "out", report=reports.append)
    run(recipe, tmp_path / "out", resume=True, report=reports.append)

    assert [report.meta_iteration for report in reports] == [1, 2, 3, 4, 5, 6]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
