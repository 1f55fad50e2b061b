"""Who answers the tasks: bundles through a real server, trivial classifiers, frozen features."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image

from kshot.bench.serve.server_process import running_server
from kshot.bundle import (
    Bundle,
    decode_image,
    default_bundles,
    load_bundle,
    locate_bundle,
    prepare,
)
from kshot.bundle.document import plain
from kshot.bundle.errors import BundleError
from kshot.bundle.manifest import ENCODER_FILE, WEIGHTS_FILE
from kshot.client import AdaptOptions, Client
from kshot.trainer.errors import DataError
from kshot.trainer.rivals.features import Features
from kshot.trainer.rivals.rivals import RIVALS, Rival, check_rivals
from studies.common.evaluation import DECIDING
from studies.common.rows import read_rows
from studies.pictures.drawn import encode
from studies.pictures.sets import PictureSet, Task

TIMEOUT_S = 600.0
# A request to predict stays below the server's limit of pixels with pictures of 1,000x1,000.
QUERIES_AT_ONCE = 25
IMAGES_AT_ONCE = 64


class Kind(StrEnum):
    """How a contender answers."""

    SERVED = "served"
    RIVAL = "rival"
    FROZEN = "frozen"


@dataclass(frozen=True)
class Contender:
    """A line of `studies/rows/contenders.toml`; `of` is a model, a rival, or bundles as `a+b`.

    An empty `of` leaves the choice to a server of the default bundles.
    """

    name: str
    title: str
    kind: Kind
    of: str
    options: Mapping[str, Any] | None = None
    reduced_to: int | None = None

    def bundles(self) -> Sequence[Bundle]:
        """Open the bundles it needs; raises `DataError` when one is not installed."""
        if self.kind == Kind.RIVAL:
            return []
        try:
            named = [locate_bundle(name) for name in self.of.split("+")] if self.of else ()
            return [load_bundle(folder) for folder in named or default_bundles()]
        except BundleError as error:
            raise DataError(f"{self.name}: {error}") from error

    def deciding(self) -> Mapping[str, Any]:
        """Return what decides its answers beside the pictures; raises `DataError`."""
        of = [_deciding(bundle) for bundle in self.bundles()] or self.of
        return {"kind": self.kind, "of": of, "options": self.options, "reduced": self.reduced_to}


def _deciding(bundle: Bundle) -> Mapping[str, Any]:
    """Return what decides a bundle's answers: its card and its tables may change without it."""
    manifest = bundle.manifest
    return {
        **{name: plain(getattr(manifest, name)) for name in (*DECIDING, "encoder", "ridge")},
        **{
            name: manifest.files[name].sha256
            for name in (WEIGHTS_FILE, ENCODER_FILE)
            if name in manifest.files
        },
    }


# Reads the contenders, by their names.
read_contenders = cache(partial(read_rows, "contenders", Contender))


@dataclass(frozen=True)
class Solved:
    """The right answers to a task, and milliseconds of adapting and of one query."""

    correct: int
    adapt_ms: float
    predict_ms: float


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
        bundles = contender.bundles()
        model = bundles[0].manifest.name if contender.of else None
        options = cast(AdaptOptions, dict(contender.options or {}))
        with (
            running_server(Path(contender.of) if contender.of else None, "cpu") as server,
            Client(server.address, timeout=TIMEOUT_S) as client,
        ):
            yield lambda pictures: Served(client, model, options, sent(pictures, contender))
    elif contender.kind == Kind.RIVAL:
        check_rivals()
        rival = RIVALS[contender.of]
        yield lambda pictures: described(rival, sent(pictures, contender))
    else:
        encoders = [Encoder.of_bundle(bundle) for bundle in contender.bundles()]
        yield lambda pictures: encoded(encoders, sent(pictures, contender))


def sent(pictures: PictureSet, contender: Contender) -> Sequence[bytes]:
    """Return the pictures that a contender gets: as they are, or reduced by area."""
    side = contender.reduced_to
    return [reduced(data, side) for data in pictures.pictures] if side else pictures.pictures


def reduced(data: bytes, side: int) -> bytes:
    """Reduce an encoded picture by area to `side` pixels, encoded again."""
    return encode(decode_image(data).resize((side, side), Image.Resampling.BOX))


@dataclass(frozen=True)
class Served:
    """A bundle behind a server: times are those of the calls, one picture in a Predict."""

    client: Client
    model: str | None
    options: AdaptOptions
    pictures: Sequence[bytes]

    def solve(self, task: Task) -> Solved:
        """Adapt, ask for all queries, ask for one alone, and delete the adapted model."""
        support = [self.pictures[row] for row in task.support]
        queries = [self.pictures[row] for row in task.queries]
        started = time.perf_counter()
        model = self.client.adapt(support, task.support_labels, model=self.model, **self.options)
        adapted = time.perf_counter()
        answers = [
            self.client.predict(model, queries[first : first + QUERIES_AT_ONCE]).labels
            for first in range(0, len(queries), QUERIES_AT_ONCE)
        ]
        asked = time.perf_counter()
        self.client.predict(model, queries[:1])
        answered = time.perf_counter()
        self.client.delete(model.id)
        correct = int((np.concatenate(answers) == task.query_labels).sum())
        return Solved(correct, 1e3 * (adapted - started), 1e3 * (answered - asked))


@dataclass(frozen=True)
class Described:
    """A rival on features `(n, features)` that take `ms` milliseconds a picture."""

    rival: Rival
    features: Features
    ms: float

    def solve(self, task: Task) -> Solved:
        """Fit to the support set and answer the queries; describing counts as adapting."""
        started = time.perf_counter()
        learned = self.rival.fit(self.features[task.support], task.support_labels)
        fitted = time.perf_counter()
        answers = learned.predict_proba(self.features[task.queries]).argmax(axis=1)
        asked = time.perf_counter()
        learned.predict_proba(self.features[task.queries[:1]])
        answered = time.perf_counter()
        return Solved(
            int((answers == task.query_labels).sum()),
            1e3 * (fitted - started) + self.ms * len(task.support),
            1e3 * (answered - asked) + self.ms,
        )


def described(rival: Rival, pictures: Sequence[bytes]) -> Described:
    """Describe all pictures of a set once, and time it."""
    rival.describe(decode_image(pictures[0]))  # imports what it needs
    return _timed(
        rival, lambda: np.stack([rival.describe(decode_image(data)) for data in pictures])
    )


@dataclass(frozen=True)
class Encoder:
    """The frozen encoder of a bundle: `session` is ONNX Runtime's."""

    bundle: Bundle
    session: Any

    @staticmethod
    def of_bundle(bundle: Bundle) -> "Encoder":
        """Open a bundle's encoder on one thread; raises `DataError` when it has none."""
        import onnxruntime

        path = bundle.path / ENCODER_FILE
        if not path.exists():
            raise DataError(f"{bundle.manifest.name}: expected a bundle with an encoder")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        return Encoder(bundle, onnxruntime.InferenceSession(path, options, providers=providers))

    def features(self, pictures: Sequence[bytes]) -> Features:
        """Return the features of encoded pictures: `(n, features)`."""
        parts = [
            self.session.run(
                ["encoded"], {"images": prepare(pictures[first:][:IMAGES_AT_ONCE], self._spec)}
            )[0]
            for first in range(0, len(pictures), IMAGES_AT_ONCE)
        ]
        return np.concatenate(parts).reshape(len(pictures), -1).astype(np.float64)

    @property
    def _spec(self) -> Any:  # noqa: ANN401 -- the manifest's
        return self.bundle.manifest.input


def encoded(encoders: Sequence[Encoder], pictures: Sequence[bytes]) -> Described:
    """Encode all pictures of a set once, and time it; logistic regression learns them, C = 1."""
    rival = RIVALS["pixels-lr"]  # for its classifier; the features are the encoders'
    return _timed(rival, lambda: np.concatenate([of.features(pictures) for of in encoders], axis=1))


def _timed(rival: Rival, describe: Callable[[], Features]) -> Described:
    started = time.perf_counter()
    features = describe()
    return Described(rival, features, 1e3 * (time.perf_counter() - started) / len(features))
