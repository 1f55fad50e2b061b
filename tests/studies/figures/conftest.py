from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from studies.figures import training
from studies.figures.figure import RunSettings

TINY = (
    "network.arguments.filters=4",
    "evaluation.task_count=2",
    "evaluation.step_count=1",
    "evaluation.checkpoint_interval=1",
    "evaluation.interval=40000",
)


def noise(seed: int) -> ImageDataset:
    """Make seven classes of ten images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (70, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return make_dataset(f"noise {seed}", images, torch.arange(8) * 10, tuple("abcdefg"))


@pytest.fixture
def noise_is_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read each part of any data set as a few images of noise."""
    sets = {part: noise(seed) for seed, part in enumerate(("train", "test", "val"))}
    monkeypatch.setattr(training, "read_once", lambda _data, _folder, part, **_: sets[part])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Return settings that make an arm over images cheap."""
    return TINY


@pytest.fixture
def settings(tmp_path: Path, tiny: tuple[str, ...]) -> Callable[..., RunSettings]:
    """Return a function that makes settings of four meta-iterations for g1 and g2."""
    made = RunSettings(
        out=tmp_path,
        data_folder=tmp_path,
        device=torch.device("cpu"),
        compiled=False,
        scale=0.0001,
        overrides=tiny,
        arms=("g1", "g2"),
        task_count=3,
    )
    return lambda **changes: replace(made, **changes)
