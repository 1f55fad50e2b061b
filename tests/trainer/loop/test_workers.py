import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kshot.trainer.errors import TrainingError
from kshot.trainer.loop.workers import ALONE, Workers, joined_workers
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.run import train_sine

CPU = torch.device("cpu")

# Its first process ends without a word while the second one waits for it.
PROCESS = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from kshot.trainer.errors import LostWorkerError
from kshot.trainer.loop.workers import joined_workers

# torchrun ends the second when it sees that the first has ended, which may be before it hears so.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

with joined_workers(torch.device("cpu")) as workers:
    seen = {
        "count": workers.count,
        "first": workers.first,
        "own": list(range(3))[workers.own(3)],
        "total": workers.total(torch.tensor([0.1, float(workers.rank)])).tolist(),
        "apart": replace(workers, apart=True).total(torch.tensor([1.0])).tolist(),
        "same": workers.agree("the same"),
        "different": workers.agree(f"of process {workers.rank}"),
    }
    Path(sys.argv[1], f"{workers.rank}.json").write_text(json.dumps(seen))
    if workers.first:
        sys.stdout.flush()
        os._exit(3)
    try:
        workers.total(torch.ones(1))
    except LostWorkerError as error:
        Path(sys.argv[1], "lost").write_text(str(error))
"""


def test_a_process_alone_takes_all_tasks_and_waits_for_nobody() -> None:
    assert ALONE.first
    assert ALONE.own(5) == slice(0, 5)
    assert ALONE.agree("anything")
    assert ALONE.total(torch.tensor([2.5])).tolist() == [2.5]


@pytest.mark.parametrize(("task_count", "count"), [(4, 2), (3, 2), (5, 3), (7, 7)])
def test_every_task_is_one_process_s(task_count: int, count: int) -> None:
    shares = [range(task_count)[Workers(rank, count).own(task_count)] for rank in range(count)]

    assert [task for share in shares for task in share] == list(range(task_count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_processes_add_up_agree_and_hear_of_an_end(
    tmp_path: Path, torchrun: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "process.py").write_text(PROCESS)

    ended = torchrun(2, sys.executable, str(tmp_path / "process.py"), str(tmp_path))

    assert ended.returncode != 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first["first"], second["first"]) == (True, False)
    assert (first["own"], second["own"]) == ([0], [1, 2])
    for seen in (first, second):
        assert seen["count"] == 2
        assert seen["total"] == pytest.approx([0.2, 1.0])
        assert seen["apart"] == [1.0]
        assert seen["same"] is True
        assert seen["different"] is False
    assert (tmp_path / "lost").read_text() == (
        "another of the 2 processes of this training has ended, so this one ends too"
    )


def test_processes_that_do_not_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")

    with (
        pytest.raises(
            TrainingError, match=r"^the 2 processes of this training could not connect: "
        ),
        joined_workers(CPU),
    ):
        pass


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with (
        pytest.raises(
            TrainingError, match=r"^process 1 of this machine: expected one GPU .* found 1 in all"
        ),
        joined_workers(torch.device("cuda")),
    ):
        pass
    assert "MASTER_ADDR" not in os.environ


@pytest.mark.parametrize(
    ("meta_batch", "message"),
    [
        ("serial", r"^outer\.meta_batch: expected stacked for 3 processes, got serial; "),
        ("stacked", r"^outer\.meta_batch_size: expected .* each of 3 processes, got 2$"),
    ],
)
def test_a_meta_batch_that_cannot_be_shared_is_refused_before_anything_is_written(
    meta_batch: str, message: str, tmp_path: Path
) -> None:
    settings = [f"outer.meta_batch={meta_batch}", "outer.meta_batch_size=2"]
    recipe = load_recipe("sine", settings)
    assert isinstance(recipe, SineRecipe)

    for rank in range(3):
        with pytest.raises(TrainingError, match=message):
            train_sine(
                recipe,
                tmp_path / "out",
                resume=False,
                device=CPU,
                compiled=False,
                report=lambda _report: None,
                workers=Workers(rank, 3),
            )
    assert not (tmp_path / "out").exists()
