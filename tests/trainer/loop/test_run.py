import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from kshot.bundle import load_bundle
from kshot.learner import Conv4, Initialization
from kshot.learner.networks import network as network_module
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.errors import DataError, TrainingError
from kshot.trainer.loop.image_run import image_training, train
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.run import CHECKPOINT_FILE, TrainingReport
from kshot.trainer.output.curve_file import CURVES_FILE

from .whole_trainings import Patterns, Recipes, Run, contents, curve, ignore

CPU = torch.device("cpu")


def test_a_training_reports_its_way_to_a_bundle(
    small_recipe: Recipes, run: Run, tmp_path: Path
) -> None:
    reports: list[TrainingReport] = []
    table: list[tuple[int, int]] = []

    folder = run(
        small_recipe(),
        tmp_path / "out",
        report=reports.append,
        report_table=lambda done, total: table.append((done, total)),
    )

    assert folder == tmp_path / "out" / "omniglot" / "1"
    assert [report.meta_iteration for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {report.meta_iterations for report in reports} == {6}
    assert all(0 < report.loss < 3 for report in reports)
    assert all(report.meta_iterations_per_second > 0 for report in reports)
    measured = [report.meta_iteration for report in reports if report.scalars]
    assert measured == [3, 6]
    assert set(reports[2].scalars) == {
        f"accuracy/{part}/{mode}"
        for part in ("train", "test")
        for mode in ("support", "transductive")
    }
    assert table == [(done, 4) for done in range(1, 5)]
    assert curve(tmp_path / "out", "inner_loss") == [1, 2, 3, 4, 5, 6]
    assert curve(tmp_path / "out", "meta_step_size") == [1, 2, 3, 4, 5, 6]
    assert curve(tmp_path / "out", "accuracy/test/support") == [0, 3, 6]


@pytest.mark.usefixtures("small_bundle")
def test_training_helps_with_classes_it_never_saw(
    small_recipe: Recipes, patterns: Patterns, tmp_path: Path
) -> None:
    recipe = small_recipe(
        *("network.arguments.filters=8", "task.way=5", "task.shot=3", "inner.batch_size=5"),
        *("inner.step_count=5", "outer.meta_iterations=40", "outer.meta_batch=stacked"),
        *("evaluation.way=5", "evaluation.task_count=20", "evaluation.step_count=5"),
        *("evaluation.interval=40", "evaluation.checkpoint_interval=40"),
        "inner.learning_rate=0.003",
    )
    known, unseen = patterns(40, 7, seed=2), patterns(30, 7, seed=3)
    training = image_training(recipe, draft_manifest(recipe, known), known, unseen, CPU)
    before = training.measure(training.initialization(training.first))
    reports: list[TrainingReport] = []

    train(
        *(recipe, known, unseen, tmp_path),
        resume=False,
        device=CPU,
        compiled=False,
        report=reports.append,
    )

    after = reports[-1].scalars
    for name in ("accuracy/test/support", "accuracy/test/transductive"):
        assert after[name] > 0.93  # chance is 0.2
        assert after[name] > before[name] + 0.08


def test_equal_seeds_give_equal_bytes_whenever_and_other_seeds_give_others(
    small_recipe: Recipes, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(small_recipe(), tmp_path / "one")
    with monkeypatch.context() as patched:
        now, now_ns = time.time, time.time_ns
        patched.setattr(time, "time", lambda: now() + 1e8)
        patched.setattr(time, "time_ns", lambda: now_ns() + 10**17)
        run(small_recipe(), tmp_path / "two")
    run(small_recipe("outer.seed=1"), tmp_path / "other")

    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    for name in (CHECKPOINT_FILE, CURVES_FILE, "omniglot/1/weights.safetensors"):
        assert one[name] != other[name]


def test_what_cannot_end_well_does_not_start(
    small_recipe: Recipes, run: Run, patterns: Patterns, tmp_path: Path
) -> None:
    """The table of the bundle wants 5 support images and a query of each test class."""
    out = tmp_path / "out"
    with pytest.raises(DataError, match="5 support and 1 query images per class: expected"):
        train(
            *(small_recipe(), patterns(), patterns(image_count=5), out),
            resume=False,
            device=CPU,
            compiled=False,
            report=ignore,
        )
    with pytest.raises(DataError, match="7 support and 1 query images"):
        run(small_recipe("evaluation.shot=7"), out)
    with pytest.raises(DataError, match="8 support and 0 query images"):
        run(small_recipe("task.shot=8"), out)
    with pytest.raises(TrainingError, match=r"^recipe omniglot-5way: conv4 filters: expected"):
        run(small_recipe("network.arguments.filters=0"), out)
    assert not out.exists()


def test_a_network_of_another_package_is_checked_first(
    small_recipe: Recipes, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose tasks mix: its training would end, and its bundle answer wrongly."""

    @dataclass(frozen=True)
    class Mixing(Conv4):
        def features(self, parameters: Any, inputs: Any, statistics: Any) -> Any:  # noqa: ANN401 -- Conv4's
            first = {name: value[:1] for name, value in parameters.items()}
            return super().features(first, inputs, statistics)

    monkeypatch.setattr(network_module, "load_plugin", lambda _name: Mixing)
    recipe = small_recipe()
    foreign = replace(recipe, network=replace(recipe.network, name="mixing"))

    with pytest.raises(TrainingError, match="network 'mixing': expected tasks side by side"):
        run(foreign, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_says_so_and_keeps_its_last_checkpoint(
    small_recipe: Recipes, run: Run, tmp_path: Path
) -> None:
    reports: list[TrainingReport] = []
    recipe = small_recipe("outer.meta_step_size=1e38", "outer.meta_step_size_final=1e38")
    recipe = replace(recipe, inner=replace(recipe.inner, learning_rate=1e3))

    with pytest.raises(TrainingError, match=r"^training diverged: at meta-iteration \d+ the inner"):
        run(recipe, tmp_path, report=reports.append)

    assert (tmp_path / CHECKPOINT_FILE).exists()
    assert not (tmp_path / "omniglot").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
    ],
    ids=["gpu", "cpu"],
)
def test_a_training_beyond_memory_is_refused_with_a_sentence(
    small_recipe: Recipes,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(OuterLoop, "advance", fail)
    with pytest.raises(TrainingError, match=r"^the training needs more memory than there is; "):
        run(small_recipe(), tmp_path)

    assert (tmp_path / CHECKPOINT_FILE).exists()


def test_the_bundle_holds_what_was_learned(small_recipe: Recipes, run: Run, tmp_path: Path) -> None:
    recipe = small_recipe()
    bundle = load_bundle(run(recipe, tmp_path))

    weights = bundle.read_weights()
    assert weights.step == 6 * 2 * 2
    assert weights.parameters["head.bias"].shape == (3,)
    assert all((moment >= 0).all() for moment in weights.second_moment.values())
    assert bundle.manifest.provenance.meta_iterations == 6


@pytest.mark.parametrize("evaluated_way", [3, 5])
def test_the_bundle_has_the_trained_head_whatever_way_the_curves_have(
    small_recipe: Recipes, run: Run, tmp_path: Path, evaluated_way: int
) -> None:
    recipe = small_recipe("task.way=4", f"evaluation.way={evaluated_way}")
    bundle = load_bundle(run(recipe, tmp_path))

    weights = bundle.read_weights().parameters
    assert Initialization.from_bundle(bundle, CPU).way == bundle.manifest.training.way == 4
    checkpoint = load_file(tmp_path / CHECKPOINT_FILE)
    for name in ("head.weight", "head.bias"):
        assert np.array_equal(weights[name], checkpoint[f"parameters.{name}"])


@pytest.mark.parametrize("evaluated_way", [3, 8])
def test_a_head_of_fixed_labels_becomes_mean_rows_of_the_evaluated_way(
    small_recipe: Recipes, run: Run, tmp_path: Path, evaluated_way: int
) -> None:
    """Also where a task has as many classes as the head was trained with."""
    recipe = small_recipe(
        *("outer.algorithm=joint", "inner.step_count=1", "task.labels=fixed"),
        *("task.way=8", "task.shot=1", f"evaluation.way={evaluated_way}"),
    )
    bundle = load_bundle(run(recipe, tmp_path))

    weights = bundle.read_weights()
    assert Initialization.from_bundle(bundle, CPU).way == evaluated_way
    checkpoint = load_file(tmp_path / CHECKPOINT_FILE)
    for kind, given in (
        ("parameters", weights.parameters),
        ("second_moment", weights.second_moment),
    ):
        for name in ("head.weight", "head.bias"):
            trained = checkpoint[f"{kind}.{name}"]
            assert len(trained) == 8
            assert trained.std(axis=0).max() > 0
            wanted = np.broadcast_to(trained.mean(axis=0), given[name].shape)
            np.testing.assert_allclose(given[name], wanted, rtol=1e-5, atol=1e-9)
