import json
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kshot.bundle import BundleError, load_bundle
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError, TrainingError
from kshot.trainer.evaluate.learning_curve import Curves
from kshot.trainer.loop.image_run import image_training, train
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.loop.run import CHECKPOINT_FILE, TrainingReport
from kshot.trainer.output.curve_file import CURVES_FILE
from kshot.trainer.recipe.differences import RECIPE_FILE
from kshot.trainer.recipe.parsing import parse_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.sine.run import RESULT_FILE
from kshot.trainer.tasks.meta_batch import ImageTasks
from kshot.trainer.tasks.training_tasks import SupportBatch

CPU = torch.device("cpu")
Patterns = Callable[..., ImageDataset]
Recipes = Callable[..., Recipe]
Run = Callable[..., Path]


def ignore(_report: TrainingReport) -> None:
    pass


@pytest.fixture
def run(
    patterns: Patterns,
    small_bundle: None,  # noqa: ARG001 -- asked for its effect
    no_thread_is_left: None,  # noqa: ARG001 -- asked for its effect
) -> Run:
    """Return a function that trains on small data."""

    def call(
        recipe: Recipe,
        out: Path,
        *,
        resume: bool = False,
        report: Callable[[TrainingReport], None] = ignore,
        report_table: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Path:
        return train(
            recipe,
            patterns(seed=0),
            patterns(seed=1),
            out,
            resume=resume,
            device=CPU,
            compiled=False,
            report=report,
            report_table=report_table,
        )

    return call


def contents(out: Path) -> dict[str, bytes]:
    """Return what a training ends with: checkpoint, curves, and the files of its bundle."""
    paths = [out / CHECKPOINT_FILE, out / CURVES_FILE, *(out / "omniglot").glob("1/*")]
    paths += out.glob(RESULT_FILE)
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def curve(out: Path, name: str) -> list[int]:
    accumulator = EventAccumulator(str(out))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars(name)]


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
        *("inner.step_count=5", "outer.meta_iterations=80", "outer.meta_batch=stacked"),
        *("evaluation.way=5", "evaluation.task_count=50", "evaluation.step_count=5"),
        *("evaluation.interval=80", "evaluation.checkpoint_interval=80"),
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


CHILD = """
import json, os, signal, sys, traceback
from pathlib import Path
import numpy, torch
from kshot.trainer.output import curve_file
from kshot.trainer.bundling import packaging
from kshot.trainer.datasets.dataset import make_dataset
from kshot.trainer.loop.image_run import train
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.run import train_sine
from kshot.trainer.loop.run import CHECKPOINT_FILE

torch.set_num_threads(1)
packaging.build_template = lambda _network, mode: mode.value.encode()
curve_file.figure_of = lambda _draw: None
curve_file.write_png = lambda _path, _figure: None
root = Path(sys.argv[1])
names = tuple(f"pattern{number}" for number in range(8))
datasets = [
    make_dataset(f"patterns {seed}", torch.from_numpy(numpy.load(root / f"{seed}.npy")),
                 torch.arange(9) * 7, names)
    for seed in (0, 1)
]

def work(recipe, out, kill_at, watched=True):
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    how = dict(resume=(out / CHECKPOINT_FILE).exists(), device=torch.device("cpu"), compiled=False,
               report=lambda report: None)
    sys.setprofile(count if watched else None)
    if isinstance(recipe, SineRecipe):
        train_sine(recipe, out, **how)
    else:
        train(recipe, *datasets, out, **how)
    sys.setprofile(None)
    (root / "calls").write_text(str(calls))

def fork(recipe, out, kill_at):
    child = os.fork()
    if child == 0:
        try:
            work(recipe, out, kill_at)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

codes = []
for name, (recipe_name, settings, kills) in json.loads(sys.argv[2]).items():
    recipe = load_recipe(recipe_name, settings)
    work(recipe, root / name / "whole", 0, watched=False)  # imports what is imported late
    codes.append(fork(recipe, root / name / "again", 0))
    calls = int((root / "calls").read_text())
    for number, points in enumerate(kills):
        out = root / name / f"killed{number}"
        codes += [fork(recipe, out, max(1, int(point * calls))) for point in points]
        codes.append(fork(recipe, out, 0))
print(json.dumps(codes))
"""

BRIEF = (
    *("network.arguments.filters=4", "task.way=3", "task.shot=2", "inner.batch_size=3"),
    *("inner.step_count=2", "outer.meta_iterations=8", "outer.meta_batch_size=2"),
    *("evaluation.way=3", "evaluation.task_count=1", "evaluation.step_count=1"),
    *("evaluation.interval=5", "evaluation.checkpoint_interval=2"),
    *("evaluation.table.task_count=2", "evaluation.table.step_count=3", "serving.step_count=4"),
)
PLAIN_STEPS = (
    *("inner.preconditioner=sgd", "serving.preconditioner=fresh"),
    'serving.preconditioners=["fresh", "sgd"]',
)
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "serial": ("omniglot-5way", BRIEF),
    "stacked": ("omniglot-5way", (*BRIEF, "outer.meta_batch=stacked")),
    "fomaml": (
        "omniglot-5way",
        (*BRIEF, "outer.algorithm=fomaml", "task.tail_shot=1", "outer.optimizer=adam"),
    ),
    "answered": (
        "omniglot-best",
        (
            *(*BRIEF, "task.tail_shot=1", "serving.name=omniglot"),
            "augmentation={ flip = false, shift = 0.1, rotation_degrees = 10.0, scale = 0.1 }",
        ),
    ),
    "maml": (
        "omniglot-5way",
        (*BRIEF, *PLAIN_STEPS, "outer.algorithm=maml", "outer.optimizer=adam"),
    ),
    "joint": (
        "omniglot-5way",
        (
            *(*BRIEF, "outer.algorithm=joint", "inner.step_count=1", "task.labels=fixed"),
            *("task.way=8", "task.shot=1"),
        ),
    ),
    "sine": (
        "sine",
        (
            *("network.arguments.hidden_units=8", "outer.meta_iterations=8"),
            *("evaluation.task_count=3", "evaluation.step_counts=[0, 2]"),
            *("evaluation.interval=5", "evaluation.checkpoint_interval=2"),
        ),
    ),
}


def test_a_training_killed_anywhere_and_resumed_ends_as_if_it_had_not_been(
    patterns: Patterns, tmp_path: Path
) -> None:
    """The point is a share of all function calls, Python's and C's: also between two of a write.

    Each is killed at two points, the second time while it is resumed.
    """
    for seed in (0, 1):
        np.save(tmp_path / f"{seed}.npy", patterns(seed=seed).images.numpy())
    generator = random.Random(0)
    kinds = {}
    kill_count = 0
    for name, (recipe_name, settings) in KINDS.items():
        kills = [
            (generator.uniform(0, 0.9), generator.uniform(0, 0.4))
            for _ in range(3 if name == "serial" else 1)
        ]
        kills += [(generator.uniform(0.9, 1), 0.01)] if name == "serial" else []
        kinds[name] = (recipe_name, settings, kills)
        kill_count += len(kills)

    child = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path, json.dumps(kinds)],
        capture_output=True,
        check=True,
        text=True,
    )

    codes = json.loads(child.stdout)
    assert child.stderr == ""
    assert codes.count(-9) >= kill_count
    assert set(codes) <= {0, -9}
    for name, (_, _, kills) in kinds.items():
        whole = contents(tmp_path / name / "whole")
        assert len(whole) == (3 if name == "sine" else 8)
        for other in ("again", *(f"killed{number}" for number in range(len(kills)))):
            assert contents(tmp_path / name / other) == whole, (name, other)


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
