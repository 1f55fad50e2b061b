"""What the tests of whole trainings share: their types, and what a training leaves."""

from collections.abc import Callable
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.loop.run import CHECKPOINT_FILE, TrainingReport
from kshot.trainer.output.curve_file import CURVES_FILE
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.sine.run import RESULT_FILE

__all__ = ["Patterns", "Recipes", "Run", "contents", "curve", "ignore"]

Patterns = Callable[..., ImageDataset]
Recipes = Callable[..., Recipe]
Run = Callable[..., Path]


def ignore(_report: TrainingReport) -> None:
    pass


def contents(out: Path) -> dict[str, bytes]:
    """Return what a training ends with: checkpoint, curves, and the files of its bundle."""
    paths = [out / CHECKPOINT_FILE, out / CURVES_FILE, *(out / "omniglot").glob("1/*")]
    paths += out.glob(RESULT_FILE)
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def curve(out: Path, name: str) -> list[int]:
    accumulator = EventAccumulator(str(out))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars(name)]
