"""The results of calls: frozen values, with arrays for many numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt

from kshot.client.options import ResolvedOptions


@dataclass(frozen=True)
class Timing:
    """The time of a call in milliseconds: the server's parts, and the whole at the client."""

    queue_ms: float
    decode_ms: float
    compute_ms: float
    store_ms: float
    round_trip_ms: float

    def document(self) -> dict[str, float]:
        """Return the parts by name, ready for JSON."""
        parts = {
            "queue": self.queue_ms,
            "decode": self.decode_ms,
            "compute": self.compute_ms,
            "store": self.store_ms,
            "round_trip": self.round_trip_ms,
        }
        return {name: round(value, 3) for name, value in parts.items()}


@dataclass(frozen=True)
class Description:
    """The server's description of an adapted model; without `id` and times if it is not kept.

    `etag` changes whenever another field does. `support_digest` names the prepared support set of
    `support_count` examples, which the server keeps if `support_kept`. `parent` is the id of the
    model that was revised or adapted again, `library_versions` are those that adapted it, by name.
    """

    id: str
    model: str
    bundle_digest: str
    weights_digest: str
    adaptation_digest: str
    class_names: tuple[str, ...]
    options: ResolvedOptions
    create_time: datetime | None
    expire_time: datetime | None
    size_bytes: int
    step_count: int
    support_accuracy: float
    etag: str = ""
    support_digest: str = ""
    support_count: int = 0
    support_kept: bool = False
    model_version: int = 0
    library_versions: Mapping[str, str] = field(default_factory=dict, hash=False)
    parent: str = ""


@dataclass(frozen=True, eq=False)
class AccuracyEstimate:
    """The accuracy to expect on new queries (0 to 1) with its 90 % interval.

    It comes from `example_count` examples, left out one by one or in folds; `confusion[i, j]`,
    int64 (way, way), counts those of class i that the others take for class j. `cross_entropy` is
    that of their answers in nats, with the scale of logits that makes it least.
    """

    accuracy: float
    low: float
    high: float
    example_count: int
    confusion: npt.NDArray[np.int64]
    cross_entropy: float


@dataclass(frozen=True)
class ModelCandidate:
    """A model that the server could choose, with an estimate if it was adapted to compare."""

    model: str
    estimate: AccuracyEstimate | None = None


@dataclass(frozen=True)
class TailReport:
    """How the last layers of an encoder were adapted, with scope `auto`.

    `weight` is that of their log-probabilities beside the head's, 0 where they stay as they are.
    `step_count` counts steps on all examples, 0 where the time was too short, `fold_step_count`
    those in each fold that decided the weight. All steps would need a `time_budget` of
    `needed_time` seconds, 0 where all were taken.
    """

    weight: float
    step_count: int
    fold_step_count: int
    needed_time: float

    @property
    def tried(self) -> bool:
        """Tell whether the time sufficed for any steps."""
        return self.step_count > 0 or self.fold_step_count > 0


@dataclass(frozen=True)
class ExampleNote:
    """An example that may do harm, by its index in the support set.

    `flaw` is `blank`, `duplicate` (of `other_index`, an example of another class),
    `near_identical` (to `other_index`, of its class), `mislabelled` (the others take it for
    `class_name`) or `far` (from all examples of `class_name`, its own, and of the others).
    """

    index: int
    flaw: str
    other_index: int | None = None
    class_name: str | None = None


@dataclass(frozen=True)
class Report:
    """Why an inner loop stopped, its loss before each step in nats, and where it ran.

    `warnings` are sentences about the support set, `example_notes` name examples that may do harm.
    `chosen_from` has the models that the server chose from, if the call named none. `tail` tells
    what scope `auto` did. `deduplicated` tells that an earlier or concurrent request with the same
    `request_id` made the model.
    """

    stop_reason: str
    support_loss: tuple[float, ...]
    compute_path: str
    slot_bucket: int
    warnings: tuple[str, ...] = ()
    estimate: AccuracyEstimate | None = None
    example_notes: tuple[ExampleNote, ...] = ()
    chosen_from: tuple[ModelCandidate, ...] = ()
    tail: TailReport | None = None
    deduplicated: bool = False


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to m queries.

    `labels` (m,) are the most probable classes: the caller's own labels where the caller adapted,
    in the dtype of their array, else as objects; elsewhere class names. `probabilities` and
    `logits` (the latter only when asked for) are float32 (m, way) with columns in the order of
    `class_names`. `description` and `report` tell of the adaptation where the call made one for
    these queries only (then `adapted_model` is empty). `warnings` are sentences about the queries.
    `known_scores` (m,) tell how well queries fit the classes, 0 to 1, where the adapted model can
    tell; `none_of_these` (m,) bool are those below the call's `reject_below`.
    """

    labels: npt.NDArray[np.generic]
    probabilities: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None
    class_names: tuple[str, ...]
    adapted_model: str
    weights_digest: str
    batch_norm_mode: str
    timing: Timing
    none_of_these: npt.NDArray[np.bool_]
    description: Description | None = None
    report: Report | None = None
    warnings: tuple[str, ...] = ()
    known_scores: npt.NDArray[np.float32] | None = None
