"""Learning curves: accuracy on fixed tasks of training and test classes during a training."""

from collections.abc import Mapping
from dataclasses import dataclass

from kshot.bundle import BatchNormMode, Manifest
from kshot.learner import Initialization
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.recipe.recipe import Recipe

MODES = (BatchNormMode.SUPPORT, BatchNormMode.TRANSDUCTIVE)


@dataclass(frozen=True)
class Curves:
    """Measures the points of the curves; data sets and pixels are keyed by the curve's name."""

    recipe: Recipe
    manifest: Manifest
    datasets: Mapping[str, ImageDataset]
    pixels: Mapping[str, DevicePixels]

    def measure(self, initialization: Initialization) -> dict[str, float]:
        """Return accuracies in 0..1 keyed `accuracy/<data set>/<batch-norm mode>`."""
        settings = curve_tasks(self.recipe)
        scalars = {}
        for name, dataset in self.datasets.items():
            evaluator = Evaluator(initialization, self.manifest, dataset, pixels=self.pixels[name])
            results = evaluator.evaluate(settings, modes_of(self.manifest))
            for mode, result in results.items():
                scalars[f"accuracy/{name}/{mode}"] = result.accuracy
        return scalars


def modes_of(manifest: Manifest) -> tuple[BatchNormMode, ...]:
    """Return the modes of a bundle's curves."""
    stored = BatchNormMode.STORED
    return (stored,) if stored in manifest.batch_norm.allowed else MODES


def curve_tasks(recipe: Recipe) -> EvaluationSettings:
    """Return the tasks of each data set and how they are adapted to.

    They are the same at every point and draw nothing from the training's randomness.
    """
    evaluation = recipe.evaluation
    return EvaluationSettings(
        way=evaluation.way,
        shot=evaluation.shot,
        query_count=evaluation.query_count,
        task_count=evaluation.task_count,
        batch_norm_mode=MODES[0],
        step_count=evaluation.step_count,
        batch_size=evaluation.batch_size,
        seed=recipe.outer.seed,
    )
