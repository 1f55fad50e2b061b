"""How contenders solve tasks: through a server, in this process, or by features of pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
from PIL import Image

from kshot.bench.serve.server_process import running_server, settle
from kshot.bundle import Bundle, decode_image
from kshot.client import AdaptedModel, AdaptOptions, Client
from kshot.trainer.encoders.feature_blocks import NetworkBlock
from kshot.trainer.encoders.photos import BLOCKS
from kshot.trainer.errors import TrainingError
from kshot.trainer.rivals.features import Features, features_of
from kshot.trainer.rivals.rivals import RIVALS, Rival, check_rivals
from studies.pictures.contenders import Contender, Kind
from studies.pictures.drawn import encode
from studies.pictures.features import FeatureEncoder
from studies.pictures.in_process import InProcess, Shown
from studies.pictures.sets import PictureSet, Rows, Task

Made = TypeVar("Made")
TIMEOUT_S = 600.0
# A request to predict stays below the server's limit of pixels with pictures of 1,000x1,000.
QUERIES_AT_ONCE = 25
# Tasks that are also solved through a server, and the difference of logits that is rounding.
CHECKED_TASKS, LEVEL = 3, 1e-3
# C of logistic regression on features of length 1: the best of 1, 10, 100 and 1,000.
FROZEN_STRENGTH = 100.0


@dataclass(frozen=True)
class Solved:
    """The right answers to a task, and the model that answered, where a server has several."""

    correct: int
    model: str = ""


class Solver(Protocol):
    """Solves tasks of one set."""

    def solve(self, task: Task) -> Solved:
        """Adapt to the support set and answer the queries."""


# Makes a solver of a set.
Open = Callable[[PictureSet], Solver]


@contextmanager
def opened(contender: Contender) -> Iterator[Open]:
    """Yield what makes a contender's solvers; its server runs around the block.

    Raises `DataError` when the contender cannot compete here.
    """
    if contender.kind == Kind.SERVED:
        with served(contender) as serve:
            if contender.steps():
                yield serve
                return
            with closing(InProcess(contender.bundles(), contender.options)) as here:
                show = once_a_set(lambda pictures: here.show(sent(pictures, contender)))
                yield lambda pictures: Checked(here, show(pictures), serve(pictures))
    else:
        describe, learner = describing(contender)
        describe = once_a_set(describe)
        yield lambda pictures: Described(learner, describe(sent(pictures, contender)))


def once_a_set(work: Callable[[PictureSet], Made]) -> Callable[[PictureSet], Made]:
    """Make a function do its work once for the trials of a set, which follow each other."""
    kept: dict[str, Made] = {}

    def give(pictures: PictureSet) -> Made:
        if pictures.digest not in kept:
            kept.clear()
            kept[pictures.digest] = work(pictures)
        return kept[pictures.digest]

    return give


@contextmanager
def served(
    contender: Contender, *, compiling: bool = False
) -> Iterator[Callable[[PictureSet], "Served"]]:
    """Run a server of a contender's bundles around the block, and yield what asks it.

    Compiling inner steps only pays where they are timed.
    """
    bundles, folder = contender.bundles(), Path(contender.of) if contender.of else None
    model = bundles[0].manifest.name if contender.of else None
    options = cast(AdaptOptions, dict(contender.options or {}))
    with (
        running_server(folder, "cpu", compiling=compiling) as server,
        Client(server.address, tls=False, timeout=TIMEOUT_S) as client,
    ):
        if compiling:
            settle(client, server)
        yield lambda pictures: Served(
            client, model, options, sent(pictures, contender).pictures, bool(contender.of)
        )


def sent(pictures: PictureSet, contender: Contender) -> PictureSet:
    """Return the pictures that a contender gets: as they are, or reduced by area."""
    side = contender.reduced_to
    if not side:
        return pictures
    return replace(pictures, pictures=tuple(reduced(data, side) for data in pictures.pictures))


def reduced(data: bytes, side: int) -> bytes:
    """Reduce an encoded picture by area to `side` pixels, encoded again."""
    return encode(decode_image(data).resize((side, side), Image.Resampling.BOX))


@dataclass(frozen=True)
class Served:
    """A bundle behind a server, or several where none is `named`."""

    client: Client
    model: str | None
    options: AdaptOptions
    pictures: Sequence[bytes]
    named: bool = True

    def solve(self, task: Task) -> Solved:
        """Adapt, ask for all queries, and delete the adapted model."""
        with self.adapted(task) as model:
            correct = int((self.ask(model, task.queries) == task.query_labels).sum())
            return Solved(correct, "" if self.named else model.description.model)

    @contextmanager
    def adapted(self, task: Task) -> Iterator[AdaptedModel]:
        """Adapt to a task's support set; delete the adapted model after the block."""
        support = [self.pictures[row] for row in task.support]
        model = self.client.adapt(support, task.support_labels, model=self.model, **self.options)
        try:
            yield model
        finally:
            self.client.delete(model.id)

    def ask(self, model: AdaptedModel, rows: Rows) -> Rows:
        """Return the labels of pictures."""
        queries = [self.pictures[row] for row in rows]
        parts = [
            self.client.predict(model, queries[first : first + QUERIES_AT_ONCE]).labels
            for first in range(0, len(queries), QUERIES_AT_ONCE)
        ]
        return np.concatenate(parts).astype(np.int64)


@dataclass
class Checked:
    """Solves tasks in this process; a server solves the first of them too, and must agree."""

    here: InProcess
    shown: Shown
    served: Served
    checked: int = 0

    def solve(self, task: Task) -> Solved:
        """Answer the queries; raises `TrainingError` where the server says otherwise."""
        adapted = self.here.adapt(self.shown, task)
        logits = self.here.answer(self.shown, adapted, task.queries).logits
        name = adapted.model.model
        if self.checked < CHECKED_TASKS:
            self.checked += 1
            some = np.arange(0, len(task.queries), -(-len(task.queries) // QUERIES_AT_ONCE))
            with self.served.adapted(task) as model:
                answers = self.served.ask(model, task.queries[some])
                chosen = model.description.model
            behind = logits[some].max(axis=1) - logits[some, answers]
            if chosen != name or behind.max() > LEVEL:
                raise TrainingError(
                    f"task {self.checked}: expected the server's answers by {chosen}, got others "
                    f"of {name} in this process, by {behind.max():.4f} of a logit"
                )
        correct = int((logits.argmax(axis=1) == task.query_labels).sum())
        return Solved(correct, "" if self.served.named else name)


# Turns a set of pictures into `(n, features)`.
Describe = Callable[[PictureSet], Features]


def describing(contender: Contender, *, kept: bool = True) -> tuple[Describe, "Learner"]:
    """Return how a rival or a frozen contender describes pictures, and what learns them.

    Features of an encoder come from the cache, unless they are not to be `kept`. Raises `DataError`
    when the contender cannot compete here.
    """
    check_rivals()
    if contender.kind == Kind.RIVAL:
        rival = RIVALS[contender.of]
        return lambda pictures: features_of(pictures.pictures, rival.describe), Learner(rival)
    (bundle,) = contender.bundles()
    encoder, columns = FeatureEncoder.of_bundle(bundle), last_layers(bundle, contender.networks)
    learner = Learner(RIVALS["pixels-lr"], FROZEN_STRENGTH)  # for its classifier

    def describe(pictures: PictureSet) -> Features:
        found = encoder.of_set(pictures) if kept else encoder.encode(pictures.pictures)
        return found[:, columns].astype(np.float64)

    return describe, learner


def last_layers(bundle: Bundle, networks: Sequence[int] | None) -> Rows:
    """Return the columns of an encoder's features that are some networks' last layers, or all."""
    ridge = bundle.manifest.ridge
    if networks is None or ridge is None:
        return np.arange(bundle.manifest.feature_count)
    ends = np.cumsum(ridge.block_sizes)
    found = [
        np.arange(end - size, end)
        for block, size, end in zip(BLOCKS, ridge.block_sizes, ends, strict=True)
        if isinstance(block, NetworkBlock) and block.layer == -1 and block.network in networks
    ]
    return np.concatenate(found)


@dataclass(frozen=True)
class Learner:
    """A rival's classifier, in a setting of its own or the rival's."""

    rival: Rival
    setting: float | None = None

    def fit(self, features: Features, labels: Rows) -> Callable[[Features], Rows]:
        """Learn examples; return what answers."""
        learned = self.rival.fit(features, labels, self.setting)
        return lambda asked: learned.predict_proba(asked).argmax(axis=1)


@dataclass(frozen=True)
class Described:
    """A learner on the features of a set."""

    learner: Learner
    features: Features

    def solve(self, task: Task) -> Solved:
        """Fit to the support set and answer the queries."""
        answer = self.learner.fit(self.features[task.support], task.support_labels)
        return Solved(int((answer(self.features[task.queries]) == task.query_labels).sum()))
