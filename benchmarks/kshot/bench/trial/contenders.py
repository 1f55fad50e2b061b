"""Who answers in a trial: served bundles through their server, and trivial classifiers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kshot.bench.trial.pictures import SIDE, Pictures, Rows
from kshot.bundle import decode_image
from kshot.client import Client, ModelCapabilities, TailReport
from kshot.trainer.rivals.features import Features
from kshot.trainer.rivals.rivals import RIVALS, Rival

QUERIES_AT_ONCE = 25


@dataclass(frozen=True)
class Answers:
    """Answers to m queries: classes and their probabilities `(m,)`, and milliseconds.

    `adapt_ms` is for learning, `picture_ms` for each query. `tail` tells what became of the last
    layers of a bundle that adapts them.
    """

    classes: Rows
    probabilities: npt.NDArray[np.floating]
    adapt_ms: float
    picture_ms: float
    tail: TailReport | None = None


class Contender(Protocol):
    """Learns some pictures and answers others."""

    @property
    def title(self) -> str:
        """Return the name in the table."""

    @property
    def bundle(self) -> bool:
        """Tell whether it is a bundle."""

    def answer(self, learned: Rows, asked: Rows) -> Answers:
        """Learn rows of the pictures and answer others."""


@dataclass(frozen=True)
class Served:
    """A bundle behind a server, with its default options but a time budget in seconds, if any."""

    client: Client
    model: ModelCapabilities
    pictures: Pictures
    time_budget: float | None = None
    bundle: bool = True

    @property
    def title(self) -> str:
        """Return the name in the table."""
        return self.model.model

    def answer(self, learned: Rows, asked: Rows) -> Answers:
        """Adapt, predict and delete; raises `KshotError`."""
        pictures = self.pictures
        learned = _within(learned, pictures.classes, self.model.max_support_count)
        support = [pictures.data[row] for row in learned]
        started = time.perf_counter()
        adapted = self.client.adapt(
            support, pictures.classes[learned], model=self.title, time_budget=self.time_budget
        )
        done = time.perf_counter()
        try:
            found = [
                adapted.predict([pictures.data[row] for row in asked[first:][:QUERIES_AT_ONCE]])
                for first in range(0, len(asked), QUERIES_AT_ONCE)
            ]
            answered = time.perf_counter()
        finally:
            adapted.delete()
        return Answers(
            np.concatenate([part.labels for part in found]).astype(np.int64),
            np.concatenate([part.probabilities.max(axis=1) for part in found]),
            1e3 * (done - started),
            1e3 * (answered - done) / len(asked),
            adapted.report.tail if adapted.report else None,
        )


@dataclass(frozen=True)
class Trivial:
    """A rival with one value of its setting; describing a picture takes `ms` milliseconds."""

    rival: Rival
    setting: float
    features: Features
    classes: Rows
    ms: float
    bundle: bool = False

    @property
    def title(self) -> str:
        """Return the name in the table."""
        return self.rival.title

    def answer(self, learned: Rows, asked: Rows) -> Answers:
        """Fit and predict; describing the pictures counts."""
        started = time.perf_counter()
        fitted = self.rival.fit(self.features[learned], self.classes[learned], self.setting)
        done = time.perf_counter()
        probabilities = fitted.predict_proba(self.features[asked])
        answered = time.perf_counter()
        return Answers(
            probabilities.argmax(axis=1),
            probabilities.max(axis=1),
            1e3 * (done - started) + self.ms * len(learned),
            1e3 * (answered - done) / len(asked) + self.ms,
        )


def trivial_contenders(pictures: Pictures) -> Sequence[Sequence[Trivial]]:
    """Return each rival with all values of its setting that tuning tries."""
    decoded = [decode_image(content, side=SIDE) for content in pictures.data]
    found = []
    for rival in RIVALS.values():
        rival.describe(decoded[0])  # imports what it needs
        started = time.perf_counter()
        features = np.stack([rival.describe(picture) for picture in decoded])
        ms = 1e3 * (time.perf_counter() - started) / len(decoded)
        found.append(
            [Trivial(rival, setting, features, pictures.classes, ms) for setting in rival.settings]
        )
    return found


def _within(learned: Rows, classes: Rows, most: int) -> Rows:
    """Keep equally many rows of each class where a model does not take all."""
    if len(learned) <= most:
        return learned
    share = most // (int(classes.max()) + 1)
    labels = classes[learned]
    return np.concatenate([learned[labels == label][:share] for label in np.unique(labels)])
