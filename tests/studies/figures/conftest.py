import pytest
import torch

from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from studies.figures import training

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
    monkeypatch.setattr(training, "_dataset", lambda _data, _spec, _folder, part: sets[part])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Return settings that make an arm over images cheap."""
    return TINY
