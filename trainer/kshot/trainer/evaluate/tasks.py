"""The tasks of an evaluation, with support flaws and unknown queries."""

from dataclasses import dataclass, replace

import torch

from kshot.learner import derive_seed
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.tasks.episode_file import EpisodeSet, draw_episodes
from kshot.trainer.tasks.episodes import EpisodeBatch, sample_unknown
from kshot.trainer.tasks.support_flaws import flawed

# Mixed into the seed, above any task's number: see kshot.trainer.tasks.support_flaws.
_UNKNOWN = 2**40 + 3


@dataclass(frozen=True)
class EvaluationTasks:
    """Tasks to solve; `digest` identifies them as they were drawn, without flaws.

    `mixed` are the same tasks with as many more queries, of classes outside each task.
    """

    episodes: EpisodeBatch
    mixed: EpisodeBatch | None
    digest: str

    def part(self, start: int, stop: int) -> "EvaluationTasks":
        """Return the tasks from `start` up to, not including, `stop`; fewer at the end."""
        mixed = None if self.mixed is None else self.mixed[start:stop]
        return replace(self, episodes=self.episodes[start:stop], mixed=mixed)


def prepare_tasks(
    dataset: ImageDataset, settings: EvaluationSettings, drawn: EpisodeSet | None = None
) -> EvaluationTasks:
    """Prepare drawn tasks, or draw tasks from the settings' seed.

    Flaws and unknown queries depend on the seed and the tasks alone. Raises `DataError` when the
    data set is too small.
    """
    if drawn is None:
        drawn = draw_episodes(dataset, settings.task_shape)
    episodes = flawed(dataset, drawn.episodes, settings.shot, settings.flaws, settings.seed)
    mixed = None
    if settings.unknown:
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, _UNKNOWN))
        unknown = sample_unknown(dataset, episodes, generator)
        mixed = replace(episodes, queries=torch.cat([episodes.queries, unknown], dim=1))
    return EvaluationTasks(episodes, mixed, drawn.digest)
