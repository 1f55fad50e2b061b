from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from kshot.bench.trial.contenders import Served, trivial_contenders
from kshot.bench.trial.cross_validation import cross_validate, growth, tuned
from kshot.bench.trial.pictures import read_pictures
from kshot.client import Client, ModelCapabilities, TailReport
from kshot.trainer.rivals.rivals import RIVALS

MakeFolder = Callable[..., Path]


def test_rivals_are_tuned_and_timed(make_folder: MakeFolder) -> None:
    pictures = read_pictures(make_folder(blue=4, red=3), 100)

    found = [tuned(settings, pictures) for settings in trivial_contenders(pictures)]

    assert [one.contender.title for one in found] == [of.title for of in RIVALS.values()]
    colours = found[-1]
    assert colours.correct.all()
    assert colours.adapt_ms > colours.picture_ms > 0
    assert growth(colours, pictures) == {1: 1.0, 2: 1.0}


def test_models_get_no_more_than_they_take(make_folder: MakeFolder) -> None:
    """The fake answers every query with the class of its first example."""
    pictures = read_pictures(make_folder(blue=6, red=6), 100)
    supports, deleted = [], []
    tail = TailReport(0.25, 20, 12, 9.5)

    def adapt(
        support: list[bytes], labels: np.ndarray, *, model: str, time_budget: float
    ) -> object:
        assert (model, time_budget) == ("small", 2.5)
        supports.append(labels.tolist())

        def predict(queries: list[bytes]) -> object:
            count = len(queries)
            probabilities = np.tile(np.float32([0.7, 0.3]), (count, 1))
            return SimpleNamespace(labels=np.zeros(count, int), probabilities=probabilities)

        report = SimpleNamespace(tail=tail if len(supports) > 1 else None)
        return SimpleNamespace(
            predict=predict, delete=lambda: deleted.append(len(support)), report=report
        )

    model = cast(ModelCapabilities, SimpleNamespace(model="small", max_support_count=5))
    served = Served(cast(Client, SimpleNamespace(adapt=adapt)), model, pictures, 2.5)
    ticks: list[int] = []

    outcome = cross_validate(served, pictures, lambda: ticks.append(1))

    assert supports == [[0, 0, 1, 1]] * 5
    assert (len(ticks), deleted) == (5, [4] * 5)
    assert outcome.correct.tolist() == [True] * 6 + [False] * 6
    assert np.allclose(outcome.probabilities, 0.7)
    assert outcome.accuracy.mean == 0.5
    assert outcome.tails == (tail,) * 4
