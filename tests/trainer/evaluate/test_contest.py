"""Trivial classifiers solve the tasks that bundles solve."""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from kshot.trainer.datasets.dataset import make_dataset, offsets_of
from kshot.trainer.evaluate import contest
from kshot.trainer.evaluate.contest import contest_tasks, rival_results
from kshot.trainer.rivals.rivals import RIVALS


def test_rivals_answer_the_queries_of_each_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contest, "RIVALS", MappingProxyType({"one": RIVALS["pixels-1nn"]}))
    monkeypatch.setattr(contest, "TASKS", 3)
    files = []
    for label, gray in enumerate((0, 90, 180)):
        for number in range(4):
            files.append(tmp_path / f"{label}-{number}.png")
            Image.new("L", (8, 8), gray + number).save(files[-1])
    images = torch.from_numpy(np.zeros((12, 1, 2, 2), np.uint8))
    dataset = make_dataset("grays", images, offsets_of([4, 4, 4]), ("a", "b", "c"))
    tasks = contest_tasks(dataset, 3, (1, 2, 4))
    heard: list[tuple[int, int]] = []

    (result,) = rival_results(dataset, files, tasks, lambda *done: heard.append(done))

    assert [(of.shot, of.query_count) for of in tasks] == [(1, 3), (2, 2)]
    assert result.title == RIVALS["pixels-1nn"].title
    assert result.accuracies == {1: [1.0] * 3, 2: [1.0] * 3}
    assert result.mean == 1
    assert heard[-1] == (12, 12)
    assert result.ahead_of(result)[1].mean == 0
