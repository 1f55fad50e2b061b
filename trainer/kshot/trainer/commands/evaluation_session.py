"""What an evaluation works with: a bundle, a data set, its tasks, a device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import click
import torch

from kshot.bundle import Bundle, Manifest
from kshot.trainer.commands.data_parts import read_own_part, read_part
from kshot.trainer.commands.evaluation_request import PROTOCOLS, EvaluateRequest
from kshot.trainer.commands.options import choose_device
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import data_of
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.recipe import Data
from kshot.trainer.tasks.episode_file import (
    EpisodeSet,
    TaskShape,
    draw_episodes,
    read_episodes,
    write_episodes,
)


@dataclass(frozen=True)
class Session:
    """A bundle, the part of a data set in the form of its input, and the tasks of it."""

    request: EvaluateRequest
    bundle: Bundle
    data: Data
    dataset: ImageDataset
    episodes: EpisodeSet
    device: torch.device
    say: Callable[[str], None]

    @property
    def settings(self) -> EvaluationSettings:
        """Return what the request asks of the bundle."""
        return self.request.settings(self.bundle.manifest, self.episodes.shape)

    def evaluator(self) -> Evaluator:
        """Load the bundle and the images; raises `TrainingError` and `DataError`."""
        compiled = self.request.compiled
        with Progress("encoding", "images") as progress:
            return Evaluator.of_bundle(
                self.bundle,
                self.dataset,
                self.device,
                compiled=compiled,
                say=self.say,
                encoding=progress.update,
            )

    def measure(self, doing: str) -> EvaluationResult:
        """Evaluate as the request asks, and show the progress."""
        settings = self.settings
        with Progress(doing, "tasks") as progress:
            results = self.evaluator().evaluate(
                settings, episodes=self.episodes, report=progress.update
            )
        return results[settings.batch_norm_mode]

    def of(self, request: EvaluateRequest, bundle: Bundle) -> "Session":
        """Return a session of another request and bundle on the same tasks.

        Images are read again if the input of the bundle has another form. Raises `DataError`.
        """
        known = bundle.manifest.provenance.split_digest
        if self.request.dataset is None and known != self.dataset.split_digest:
            self.say(
                f"{request.bundle_name} was trained on another split than {self.bundle.path}: it "
                "may have been trained on classes of these tasks"
            )
        dataset, spec = self.dataset, bundle.manifest.input
        if spec != self.bundle.manifest.input:
            dataset = read_part(self.data, request.data_folder, request.part, spec)
        return replace(self, request=request, bundle=bundle, dataset=dataset)


def open_session(request: EvaluateRequest, bundle: Bundle) -> Session:
    """Read the data, then read the tasks or draw them; write an episode file that is missing.

    Raises `DataError`, also when the bundle's own data are not split as for its training, and
    `UsageError` when the file holds other tasks than the request names.
    """
    device = choose_device(request.device)
    data_folder, part = request.data_folder, request.part
    if request.dataset is None:
        data = data_of(bundle.manifest.provenance)
        remedy = f"; `--dataset {data.dataset} ...` evaluates all the same"
        dataset = read_own_part(bundle, data_folder, part, remedy)
    else:
        split, folder = request.dataset_split or "", request.dataset_folder
        data = Data(request.dataset, split, rotations=False, folder=folder)
        dataset = read_part(data, data_folder, part, bundle.manifest.input)
    path = request.episode_path
    held = read_episodes(path, dataset) if path is not None and path.is_file() else None
    shape = _task_shape(request, bundle.manifest, held.shape if held else None)
    episodes = held or draw_episodes(dataset, shape)
    if path is not None and held is None:
        write_episodes(path, episodes)
    return Session(request, bundle, data, dataset, episodes, device, say_once())


def _task_shape(request: EvaluateRequest, manifest: Manifest, held: TaskShape | None) -> TaskShape:
    """Return the tasks that were asked for: by options, a protocol, the file, or the defaults.

    Raises `UsageError` when the options name other tasks than the episode file holds.
    """
    named = {name: getattr(request, name) for name in TaskShape.__dataclass_fields__}
    if request.protocol:
        named["task_count"], named["query_count"] = PROTOCOLS[request.protocol]
    default = TaskShape(manifest.usual_way, shot=1, query_count=1, task_count=1000, seed=0)
    given = {name: value for name, value in named.items() if value is not None}
    shape = replace(held or default, **given)
    if held is not None and shape != held:
        raise click.UsageError(
            f"--episodes: {request.episode_path} holds {_words(held)}, but the other options ask "
            f"for {_words(shape)}; leave them out or name another file"
        )
    return shape


def _words(shape: TaskShape) -> str:
    return (
        f"{shape.task_count} {shape.way}-way {shape.shot}-shot tasks with {shape.query_count} "
        f"queries per class from seed {shape.seed}"
    )


def say_once() -> Callable[[str], None]:
    """Return a function that prints each sentence once, on stderr."""
    return cache(partial(click.echo, err=True))
