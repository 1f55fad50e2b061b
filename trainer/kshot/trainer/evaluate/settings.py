"""The settings of an evaluation."""

from dataclasses import dataclass, field

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.tasks.episode_file import TaskShape
from kshot.trainer.tasks.support_flaws import SupportFlaws


@dataclass(frozen=True)
class EvaluationSettings:
    """The tasks, the inner loop or a baseline, and the batch-norm mode of an evaluation.

    `query_count` is per class. None means the bundle's default. With `unknown`, as many queries of
    classes outside the task are scored too. With `calibrated`, logits are divided by the bundle's
    temperature, as the server does. With `balance_classes`, classes come equally often in the
    steps. Scope `auto` is `head` here: only the server adapts tails.
    """

    way: int
    shot: int
    query_count: int
    task_count: int
    batch_norm_mode: BatchNormMode
    step_count: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    preconditioner: Preconditioner | None = None
    head: Head | None = None
    scope: Scope | None = None
    seed: int = 0
    baseline: Baseline | None = None
    flaws: SupportFlaws = field(default_factory=SupportFlaws)
    unknown: bool = False
    calibrated: bool = True
    balance_classes: bool = False

    @property
    def task_shape(self) -> TaskShape:
        """Return the settings that decide which tasks are drawn."""
        return TaskShape(self.way, self.shot, self.query_count, self.task_count, self.seed)

    def temperature(self, manifest: Manifest) -> float:
        """Return the temperature of the logits in these tasks; 1 for a baseline without logits."""
        if not self.calibrated or self.baseline is Baseline.NIL:
            return 1.0
        return manifest.temperature(self.batch_norm_mode, self.way, self.way * self.shot)
