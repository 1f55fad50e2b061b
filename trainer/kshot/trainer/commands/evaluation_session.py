"""What an evaluation on the command line works with: bundle, data, tasks, device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from kshot.bundle import Bundle, BundleError, load_bundle, locate_bundle
from kshot.trainer.commands.evaluation_request import EvaluateOptions, check_allowed, task_shape
from kshot.trainer.commands.options import choose_data_folder
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import data_of, read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.recipe import Data
from kshot.trainer.tasks.episode_file import (
    EpisodeSet,
    draw_episodes,
    read_episodes,
    write_episodes,
)

__all__ = ["Session", "check_split", "find_bundle", "open_bundle", "open_session", "say_once"]

WITHOUT_FOLDER = ("digits",)


@dataclass(frozen=True)
class Session:
    """A bundle, the part of a data set in the form of its input, and the tasks of it."""

    options: EvaluateOptions
    bundle: Bundle
    data: Data
    dataset: ImageDataset
    episodes: EpisodeSet
    settings: EvaluationSettings
    device: torch.device
    say: Callable[[str], None]

    def evaluator(self) -> Evaluator:
        """Load the bundle and the images; raises `TrainingError` and `DataError`."""
        return Evaluator.of_bundle(
            self.bundle,
            self.dataset,
            self.device,
            compiled=self.options.compiled,
            say=self.say,
        )

    def of(self, options: EvaluateOptions, bundle: Bundle) -> "Session":
        """Return a session on the same tasks with other options and another bundle.

        Images are read again where its input has another form. Raises ``DataError``.
        """
        known = bundle.manifest.provenance.split_digest
        if self.options.dataset is None and known != self.dataset.split_digest:
            self.say(
                f"{options.bundle_name} was trained on another split than {self.bundle.path}: it "
                "may have been trained on classes of these tasks"
            )
        same_input = bundle.manifest.input == self.bundle.manifest.input
        dataset = self.dataset if same_input else _read(options, self.data, bundle)
        settings = options.settings(bundle.manifest, self.episodes.shape)
        return replace(self, options=options, bundle=bundle, dataset=dataset, settings=settings)


def open_bundle(options: EvaluateOptions) -> Bundle:
    """Open a folder or a built-in bundle that allows what the options choose.

    Raises ``BundleError``; ``UsageError`` for an unknown name and for what is not allowed.
    """
    bundle = find_bundle(options.bundle_name)
    check_allowed(options, bundle.manifest, options.bundle_name)
    return bundle


def find_bundle(name: str) -> Bundle:
    """Open a folder or a built-in bundle; raises ``BundleError``, ``UsageError`` for neither."""
    try:
        folder = locate_bundle(name)
    except BundleError as error:
        raise click.UsageError(str(error)) from error
    return load_bundle(folder)


def open_session(options: EvaluateOptions, bundle: Bundle, device: torch.device) -> Session:
    """Read the data, and the tasks or draw them; write them where a file is named and missing.

    Raises ``DataError``, also where the bundle's own data are not split as they were when it was
    trained, and ``UsageError`` where the file holds other tasks than are asked for.
    """
    data = _data(options, bundle)
    dataset = _read(options, data, bundle)
    if options.dataset is None:
        otherwise = f"; `--dataset {data.dataset} ...` evaluates all the same"
        check_split(dataset, bundle, otherwise)
    path = options.episode_path
    held = read_episodes(path, dataset) if path is not None and path.exists() else None
    shape = task_shape(options, bundle.manifest, held.shape if held else None)
    episodes = held or draw_episodes(dataset, shape)
    if path is not None and held is None:
        write_episodes(path, episodes)
    settings = options.settings(bundle.manifest, shape)
    return Session(options, bundle, data, dataset, episodes, settings, device, say_once())


def _data(options: EvaluateOptions, bundle: Bundle) -> Data:
    """Return the data that the options name, else those that the bundle was trained on."""
    if options.dataset is None or options.dataset_split is None:
        return data_of(bundle.manifest.provenance)
    return Data(
        options.dataset, options.dataset_split, rotations=False, folder=options.dataset_folder
    )


def check_split(dataset: ImageDataset, bundle: Bundle, otherwise: str = "") -> None:
    """Raise ``DataError`` where a folder's classes are not divided as for the training.

    Another class or another seed moves others: what is the test part now may have been trained on.
    ``otherwise`` ends the sentence with what can be done.
    """
    wanted = bundle.manifest.provenance.split_digest
    if dataset.split_digest != wanted:
        raise DataError(
            f"the classes of {dataset.name} are not split as they were for the training of "
            f"{bundle.path}, which may have been trained on them: the split's digest is "
            f"{dataset.split_digest}, wanted {wanted}{otherwise}"
        )


def _read(options: EvaluateOptions, data: Data, bundle: Bundle) -> ImageDataset:
    folder = Path()
    if data.dataset not in WITHOUT_FOLDER:
        folder = choose_data_folder(options.data_folder)
    with Progress(f"reading {data.dataset}", "images") as progress:
        return read_dataset(
            data,
            folder,
            options.part,
            input_spec=bundle.manifest.input,
            progress=progress.update,
        )


def say_once() -> Callable[[str], None]:
    """Return what says each sentence once, on stderr."""
    said: set[str] = set()

    def say(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            click.echo(sentence, err=True)

    return say
