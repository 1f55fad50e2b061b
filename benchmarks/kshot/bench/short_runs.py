"""How short each recipe may be to show that it learns, and the images that it then sees."""

from collections.abc import Callable, Mapping
from pathlib import Path

from kshot.bench.generated_images import MINI_IMAGENET, ImageForm, write_classes
from kshot.bench.short_recipes import ShortData, ShortRun
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Recipe

__all__ = ["GENERATED_FORM", "SHORT_RUNS", "data_for", "generate"]

# MAML's code has 16 or 32 tasks in a meta-batch, 4 for mini-ImageNet; a short run gets further with
# fewer.
_FOUR = ("outer.meta_batch_size=4",)
_ONE = ("outer.meta_batch_size=1",)


def _mini_imagenet(
    recipe: str, meta_iterations: int, settings: tuple[str, ...] = (), step_count: int = 2
) -> ShortRun:
    """Compare on fewer tasks: each takes ten times as long as one of Omniglot."""
    return ShortRun(recipe, meta_iterations, settings, 200, query_count=3, step_count=step_count)


# A few steps of the comparison's adaptations are enough to tell, and most of what a run costs.
SHORT_RUNS: Mapping[str, ShortRun] = {
    run.recipe: run
    for run in (
        ShortRun("omniglot-5way", 60, step_count=3),
        ShortRun("omniglot-best", 60),
        ShortRun("omniglot-5way-fomaml", 150, _FOUR),
        ShortRun("omniglot-5way-maml", 100, _FOUR),
        ShortRun("sine", 2000),
        ShortRun("omniglot-5way-5shot-fomaml", 60, _FOUR),
        ShortRun("omniglot-5way-5shot-maml", 40, _FOUR, step_count=1),
        ShortRun("omniglot-5way-fresh", 60, step_count=3),
        ShortRun("omniglot-5way-sgd", 60, step_count=3),
        ShortRun("omniglot-5way-joint", 60, step_count=3),
        ShortRun("omniglot-pretraining", 150, step_count=3),
        ShortRun("cifar-fs-5way", 20, query_count=3, step_count=2),
        ShortRun("cifar-fs-best", 400, query_count=3),
        ShortRun("omniglot-20way", 15, query_count=1, step_count=3),
        ShortRun("omniglot-20way-fomaml", 200, _FOUR, query_count=1, step_count=1),
        ShortRun("omniglot-20way-maml", 20, _FOUR, query_count=1, step_count=1),
        _mini_imagenet("mini-imagenet-5way", 8),
        _mini_imagenet("mini-imagenet-5way-fomaml", 60),
        _mini_imagenet("mini-imagenet-5way-maml", 10),
        _mini_imagenet("mini-imagenet-5way-5shot-fomaml", 60, _ONE, 5),
        _mini_imagenet("mini-imagenet-5way-5shot-maml", 40, _ONE, 5),
    )
}

MINI_IMAGENET_COUNT = 600
GENERATED_FORM: Mapping[str, int] = {"train": 64, "test": 20}
GENERATED_COUNT = 20
ROTATIONS = 4


def data_for(
    recipe: Recipe, data_folder: Path | None, work: Path, say: Callable[[str], None]
) -> ShortData:
    """Find a recipe's data set below the data folder, or generate images of its form."""
    if data_folder is not None:
        try:
            read_dataset(recipe.data, data_folder, "test", input_spec=recipe.input)
        except DataError as error:
            say(str(error))
        else:
            return ShortData(data_folder, generated=False)
    say(f"generating images of the form of {recipe.data.dataset}")
    return generate(recipe, work)


def generate(recipe: Recipe, work: Path) -> ShortData:
    """Generate images of the form that a recipe wants, or find those generated before.

    mini-ImageNet's are a whole one in its own form on disk, 100 classes of 600 JPEG files; others
    become a folder of class folders, 64 for training and 20 for test, of 20 images each.
    """
    channels, side, _ = recipe.input.shape
    if recipe.data.dataset == "mini-imagenet":
        form = ImageForm(side, channels, MINI_IMAGENET_COUNT)
        _write(work / "mini-imagenet", form, MINI_IMAGENET)
        return ShortData(work, generated=True)
    name = f"generated-{channels}x{side}x{side}"
    classes = {
        part: [f"{part}{number:03d}" for number in range(count)]
        for part, count in GENERATED_FORM.items()
    }
    _write(work / name, ImageForm(side, channels, GENERATED_COUNT), classes)
    settings = ["data.dataset=folder", "data.split=parts", f"data.folder={name}"]
    if recipe.task.labels == "fixed":
        ways = GENERATED_FORM["train"] * (ROTATIONS if recipe.data.rotations else 1)
        settings.append(f"task.way={ways}")
    return ShortData(work, generated=True, settings=tuple(settings))


def _write(folder: Path, form: ImageForm, classes: Mapping[str, list[str]]) -> None:
    if folder.is_dir():
        return
    unfinished = folder.with_suffix(".partial")
    write_classes(unfinished, form, classes)
    unfinished.rename(folder)
