from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kshot.bundle import Bundle
from kshot.trainer.errors import DataError
from studies.pictures.in_process import InProcess
from studies.pictures.insights import Insights
from studies.pictures.sets import PictureSet, draw_tasks


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_colours_are_told_and_so_are_other_colours(
    means_bundle: Bundle, pictures: PictureSet
) -> None:
    with closing(InProcess([means_bundle])) as here:
        of = Insights(here, here.show(pictures), pictures)
        whole = of.estimates(draw_tasks(pictures, (3, 2, 1), 3, 0))
        strange = of.unknowns(draw_tasks(pictures, (2, 2, 2), 3, 0))

    assert (whole["tasks"], whole["estimate"], whole["accuracy"]) == (3, 1.0, 1.0)
    assert whole["difference"] == 0
    assert whole["inside"] == whole["inside_of_all_others"] == 1
    assert 0 < whole["width"] < 1
    assert strange["known_score"] > 0.5
    assert strange["known_score"] - strange["probability"] == pytest.approx(strange["ahead"])
    assert 0 <= strange["false_alarms"] <= 1


def test_unknown_queries_need_other_classes(means_bundle: Bundle, pictures: PictureSet) -> None:
    with closing(InProcess([means_bundle])) as here:
        of = Insights(here, here.show(pictures), pictures)
        with pytest.raises(DataError, match="expected pictures of other classes, got none"):
            of.unknowns(draw_tasks(pictures, (3, 2, 2), 1, 0))
        with pytest.raises(DataError, match="whose accuracy can be estimated"):
            of.estimates(draw_tasks(pictures, (3, 1, 2), 1, 0))


def test_all_others_are_of_other_groups(means_bundle: Bundle, pictures: PictureSet) -> None:
    groups = tuple(str(row % 4) for row in range(12))
    grouped = PictureSet(pictures.pictures, pictures.classes, pictures.class_names, groups)
    (task,) = draw_tasks(grouped, (3, 1, 1), 1, 0)

    with closing(InProcess([means_bundle])) as here:
        rows, labels = Insights(here, here.show(grouped), grouped)._others(task)

    of_support = {groups[row] for row in task.support}
    assert not of_support & {groups[row] for row in rows}
    assert np.array_equal(grouped.classes[rows], grouped.classes[task.support][labels])
