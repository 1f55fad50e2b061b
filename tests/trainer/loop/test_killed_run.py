"""A training in a process that is killed, at any place."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from .whole_trainings import Patterns, contents

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

def fork(recipe, out, kill_at, watched=True):
    child = os.fork()
    if child == 0:
        try:
            work(recipe, out, kill_at, watched)
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
        codes.append(fork(recipe, out, 0, watched=False))
print(json.dumps(codes))
"""

BRIEF = (
    *("network.arguments.filters=4", "task.way=3", "task.shot=2", "inner.batch_size=3"),
    *("inner.step_count=2", "outer.meta_iterations=6", "outer.meta_batch_size=2"),
    *("evaluation.way=3", "evaluation.task_count=1", "evaluation.step_count=1"),
    *("evaluation.interval=4", "evaluation.checkpoint_interval=2"),
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
