"""What each adapted model must answer: the tasks behind acknowledged ids, and their ends."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from kshot.v1 import adaptation_pb2 as wire
from studies.reliability.tasks import TOLERANCE, WIDE_TOLERANCE, Task, probabilities_of

# The clocks of caller and server are one, but an answer takes time to arrive.
_SLACK_SECONDS = 0.1
_MOST_FAULTS = 50
NOT_FOUND = "ADAPTED_MODEL_NOT_FOUND"
EXPIRED = "ADAPTED_MODEL_EXPIRED"
DELETED = "ADAPTED_MODEL_DELETED"


@dataclass
class Entry:
    """An acknowledged adapted model: its task, when it expires, when its deletion began and ended.

    Times are seconds since 1970; None is not yet. Steps beside other tasks' may round otherwise:
    then the weights have a digest of their own, and answers the `tolerance`.
    """

    id: str
    task: Task
    weights_digest: str
    tolerance: float
    expire_time: float
    delete_begun: float | None = None
    delete_ended: float | None = None


@dataclass
class Ledger:
    """All acknowledged models, and what was found about them."""

    entries: dict[str, Entry] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    _live: list[str] = field(default_factory=list)

    def acknowledge(self, task: Task, got: wire.AdaptResponse) -> None:
        """Note an answer to Adapt."""
        adapted, alone = got.adapted_model, got.report.slot_bucket <= 1
        if adapted.id in self.entries:
            self.fault(f"{adapted.id}: given twice")
        if alone and adapted.weights_digest != task.weights_digest:
            self.fault(f"{adapted.id}: adapted to other weights than task {task.number} has alone")
        expires = adapted.expire_time.seconds + adapted.expire_time.nanos / 1e9
        tolerance = TOLERANCE if alone else WIDE_TOLERANCE
        entry = Entry(adapted.id, task, adapted.weights_digest, tolerance, expires)
        self.entries[adapted.id] = entry
        self._live.append(adapted.id)

    def pick(self, chance: random.Random) -> Entry | None:
        """Draw a model that may still be there; expired ones stay for a moment, to ask for."""
        while self._live:
            place = chance.randrange(len(self._live))
            entry = self.entries.get(self._live[place])  # None: long gone, and forgotten
            if entry is not None:
                gone = entry.expire_time + 1 < time.time() or entry.delete_ended is not None
                if not gone or chance.random() < 0.3:
                    return entry
            self._live[place] = self._live[-1]
            self._live.pop()
        return None

    @property
    def live_count(self) -> int:
        """Count the models that may still be there."""
        return len(self._live)

    def known(self) -> list[Entry]:
        """Return all models in their order."""
        return list(self.entries.values())

    def answered(self, entry: Entry, sent: float) -> None:
        """Note that a model was found by a call that was sent at a time."""
        if entry.delete_ended is not None and entry.delete_ended < sent:
            self.fault(f"{entry.id}: answers after its deletion")
        if sent > entry.expire_time + _SLACK_SECONDS:
            self.fault(f"{entry.id}: answers {sent - entry.expire_time:.1f} s after its expiry")

    def predicted(self, entry: Entry, number: int, got: wire.PredictResponse, sent: float) -> None:
        """Check an answer to the queries `number`."""
        task = entry.task
        self.answered(entry, sent)
        if got.adapted_model != entry.id or got.weights_digest != entry.weights_digest:
            self.fault(f"{entry.id}: answered by {got.adapted_model} {got.weights_digest[:8]}")
        if list(got.class_names) != list(task.class_names):
            self.fault(f"{entry.id}: has the names of other classes: {list(got.class_names)}")
        self.compare(entry.id, task, number, got.probabilities, entry.tolerance)
        chosen = [prediction.class_index for prediction in got.predictions]
        if chosen != probabilities_of(got.probabilities).argmax(axis=1).tolist():
            self.fault(f"{entry.id}: names other classes than its probabilities")

    def compare(
        self, what: str, task: Task, number: int, tensor: wire.Tensor, tolerance: float
    ) -> None:
        """Hold probabilities to the reference of a task."""
        found, wanted = probabilities_of(tensor), task.answers[number]
        if found.shape != wanted.shape or not np.abs(found - wanted).max() <= tolerance:
            self.fault(f"{what}: another answer than task {task.number} gives alone")

    def refused(self, entry: Entry, reason: str) -> bool:
        """Check why a model was not found; return whether it is a reason of this kind."""
        if reason == EXPIRED:
            if time.time() < entry.expire_time - _SLACK_SECONDS:
                self.fault(f"{entry.id}: expired {entry.expire_time - time.time():.1f} s early")
        elif reason == DELETED:
            if entry.delete_begun is None:
                self.fault(f"{entry.id}: deleted, but nobody asked for it")
        elif reason == NOT_FOUND:
            self.fault(f"{entry.id}: acknowledged and lost")
        else:
            return False
        return True

    def fault(self, text: str) -> None:
        """Note a fault; the first ones are kept in words."""
        self.counts["faults"] += 1
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(text)
