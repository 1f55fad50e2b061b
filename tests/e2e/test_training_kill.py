"""A real `kshot train` with compiled steps, killed at random and resumed until it is done."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kshot.learner import compiler_name

KILLS = 2
SECONDS_AT_MOST = 500
SETTINGS = (
    *("data.dataset=folder", "data.folder=patterns", "data.split=parts", "data.rotations=false"),
    *("network.arguments.filters=16", "task.way=3", "task.shot=2", "inner.batch_size=3"),
    *("inner.step_count=2", "outer.meta_iterations=400", "outer.meta_batch_size=2"),
    *("outer.meta_batch=stacked", "evaluation.way=3", "evaluation.task_count=2"),
    *("evaluation.step_count=2", "evaluation.interval=200", "evaluation.checkpoint_interval=20"),
    *("evaluation.table.task_count=2", "evaluation.table.step_count=3"),
)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for number in range(4):
            folder = tmp_path / "data" / "patterns" / part / f"{part}{number}"
            folder.mkdir(parents=True)
            for image in range(6):
                pixels = generator.integers(0, 256, (28, 28)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")
    return tmp_path / "data"


def start(tmp_path: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    """Start a training; its compiled steps and decoded images are kept for the next one."""
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "kshot", "train", "omniglot-5way", "--out", str(out)),
            *("--data", str(tmp_path / "data"), "--device", "cpu", "--compile", *words, *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "KSHOT_CACHE": str(tmp_path / "steps"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
    )


def finish(process: "subprocess.Popen[str]") -> None:
    _, talk = process.communicate(timeout=SECONDS_AT_MOST)
    assert process.returncode == 0, talk


def kill_after(process: "subprocess.Popen[str]", checkpoint: Path, seconds: float) -> bool:
    """Kill a training some time after it has written a checkpoint; tell whether it was running."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    until = time.monotonic() + SECONDS_AT_MOST
    while process.poll() is None and (
        not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before
    ):
        assert time.monotonic() < until
        threading.Event().wait(0.02)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    _, talk = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), talk
    return process.returncode != 0


@pytest.mark.compiled
@pytest.mark.skipif(
    compiler_name(torch.device("cpu")) is None, reason="no compiler for inner steps is installed"
)
@pytest.mark.usefixtures("data_folder")
def test_a_killed_training_with_compiled_steps_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(tmp_path, whole))
    checkpoint = killed / "checkpoint.safetensors"
    generator = random.Random(0)

    deaths = 0
    for _ in range(KILLS):
        more = ["--resume"] if checkpoint.exists() else []
        process = start(tmp_path, killed, *more)
        deaths += kill_after(process, checkpoint, generator.uniform(0, 1))
    finish(start(tmp_path, killed, "--resume"))

    assert deaths > 0
    names = ["checkpoint.safetensors", "curves.json", "curves.png", "recipe.json"]
    names += [f"omniglot/1/{path.name}" for path in (whole / "omniglot" / "1").iterdir()]
    assert len(names) == 10
    for name in names:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
