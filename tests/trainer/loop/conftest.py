from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kshot.trainer.loop.image_run import train
from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.recipe.recipe import Recipe

from .whole_trainings import Patterns, Run, ignore


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
            device=torch.device("cpu"),
            compiled=False,
            report=report,
            report_table=report_table,
        )

    return call
