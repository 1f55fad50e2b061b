from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from kshot.bundle import Bundle, RidgeRule, RidgeSettings, prepare
from kshot.trainer.encoders.feature_blocks import HistogramBlock, NetworkBlock
from kshot.trainer.errors import DataError, TrainingError
from studies.pictures import solvers
from studies.pictures.contenders import Contender, Kind
from studies.pictures.in_process import InProcess
from studies.pictures.sets import PictureSet, Rows, draw_tasks
from studies.pictures.solvers import Checked, Served, last_layers, once_a_set, opened, reduced, sent


def test_rival_solves_tasks(pictures: PictureSet) -> None:
    (task,) = draw_tasks(pictures, (3, 2, 2), 1, 0)

    with opened(Contender("colour", "", Kind.RIVAL, "colour-lr")) as make:
        solved = make(pictures).solve(task)

    assert (solved.correct, solved.model) == (6, "")


def test_pictures_are_reduced_before_they_are_sent(pictures: PictureSet) -> None:
    plain = Contender("plain", "", Kind.RIVAL, "colour-lr")
    small = Contender("small", "", Kind.RIVAL, "colour-lr", reduced_to=4)

    assert sent(pictures, plain) is pictures
    assert sent(pictures, small).pictures[0] == reduced(pictures.pictures[0], 4)


def test_frozen_features_are_learned(
    means_bundle: Bundle, pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (task,) = draw_tasks(pictures, (3, 2, 2), 1, 0)

    with opened(Contender("frozen", "", Kind.FROZEN, str(means_bundle.path))) as make:
        solver = cast(solvers.Described, make(pictures))

    images = prepare(list(pictures.pictures), means_bundle.manifest.input)
    means = images.reshape(len(images), 3, 2, 4, 2, 4).mean(axis=(3, 5)).reshape(len(images), -1)
    assert np.allclose(solver.features, means, atol=1e-6)
    assert solver.solve(task).correct == 6
    with (
        pytest.raises(DataError, match="expected a bundle with an encoder"),
        opened(Contender("none", "", Kind.FROZEN, "omniglot")),
    ):
        pass


def test_last_layers_are_those_of_the_networks(
    means_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = (NetworkBlock(0, 3), NetworkBlock(0, -1), NetworkBlock(1, -1), HistogramBlock())
    monkeypatch.setattr(solvers, "BLOCKS", blocks)
    rule = RidgeRule(1, 1.0, 1.0, 1.0, (1.0,) * 4)
    manifest = replace(means_bundle.manifest, ridge=RidgeSettings((2, 3, 4, 3), (rule,)))
    bundle = cast(Bundle, SimpleNamespace(manifest=manifest))

    assert last_layers(bundle, (0,)).tolist() == [2, 3, 4]
    assert last_layers(bundle, (0, 1)).tolist() == list(range(2, 9))
    assert len(last_layers(bundle, None)) == 12


class Saying:
    """A server that says what it is told to."""

    def __init__(self, answers: Rows, model: str = "means") -> None:
        self.answers, self.model, self.asked, self.named = answers, model, 0, True

    @contextmanager
    def adapted(self, _task: object) -> Iterator[SimpleNamespace]:
        self.asked += 1
        yield SimpleNamespace(description=SimpleNamespace(model=self.model))

    def ask(self, _model: object, rows: Rows) -> Rows:
        return self.answers[: len(rows)]


def test_a_server_must_agree(
    means_bundle: Bundle, pictures: PictureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first tasks are asked twice."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(solvers, "CHECKED_TASKS", 1)
    first, second = draw_tasks(pictures, (3, 2, 2), 2, 0)
    right = first.query_labels

    with closing(InProcess([means_bundle])) as here:
        shown = here.show(pictures)
        agreeing = Saying(right)
        solver = Checked(here, shown, cast(Served, agreeing))
        assert [solver.solve(task).correct for task in (first, second)] == [6, 6]
        assert agreeing.asked == 1
        for other in (Saying(right[::-1]), Saying(right, "photos")):
            with pytest.raises(TrainingError, match="task 1: expected the server's answers"):
                Checked(here, shown, cast(Served, other)).solve(first)


def test_a_set_is_prepared_once(pictures: PictureSet) -> None:
    counted: list[PictureSet] = []
    give = once_a_set(lambda given: counted.append(given) or len(counted))  # type: ignore[func-returns-value]

    assert [give(pictures), give(pictures), give(pictures.some(np.array([0, 5])))] == [1, 1, 2]
