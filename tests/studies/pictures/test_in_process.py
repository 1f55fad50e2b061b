"""What a server does from prepared pictures on is done in the study's process too."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from kshot.bench.serve.server_process import running_server
from kshot.bundle import Bundle, Scope, builtin_bundle, load_bundle
from kshot.client import Client
from studies.pictures.in_process import InProcess
from studies.pictures.sets import PictureSet, draw_tasks


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_answers_are_the_servers(means_bundle: Bundle, pictures: PictureSet) -> None:
    (task,) = draw_tasks(pictures, (3, 2, 2), 1, 0)
    support, queries = (
        [pictures.pictures[row] for row in of] for of in (task.support, task.queries)
    )

    with closing(InProcess([means_bundle], {"scope": "head"})) as here:
        shown = here.show(pictures)
        adapted = here.adapt(shown, task, scored=True)
        answers = here.answer(shown, adapted, task.queries)
    with (
        running_server(means_bundle.path, "cpu", compiling=False) as server,
        Client(server.address) as client,
    ):
        model = client.adapt(support, task.support_labels)
        said = client.predict(model, queries, return_logits=True)

    assert adapted.model.options.scope is Scope.HEAD
    assert adapted.model.model == model.description.model == "means"
    assert said.logits is not None
    assert np.allclose(answers.logits, said.logits, atol=1e-4)
    assert answers.known is not None
    assert said.known_scores is not None
    assert np.allclose(answers.known, said.known_scores, atol=1e-4)
    assert adapted.estimate is not None
    assert model.report is not None
    assert model.report.estimate is not None
    assert adapted.estimate.low == pytest.approx(model.report.estimate.low, abs=1e-6)


@pytest.mark.parametrize("shot", [1, 2])
def test_the_best_of_several_is_chosen(
    means_bundle: Bundle, pictures: PictureSet, shot: int
) -> None:
    """Colours tell the classes apart, which ink does not show; with one example pictures decide."""
    (task,) = draw_tasks(pictures, (3, shot, 2), 1, 0)

    with closing(InProcess([load_bundle(builtin_bundle("drawings")), means_bundle])) as here:
        adapted = here.adapt(here.show(pictures), task)

    assert adapted.model.model == "means"
    assert [name for name, _ in adapted.chosen_from] == ["drawings", "means"]
