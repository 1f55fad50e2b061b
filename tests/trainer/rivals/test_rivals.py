import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Learner
from threadpoolctl import threadpool_info

from kshot.trainer.errors import TrainingError
from kshot.trainer.rivals import rivals
from kshot.trainer.rivals.features import features_of
from kshot.trainer.rivals.rivals import RIVALS, Labels, LogisticRegression, check_rivals, one_thread

PICTURES = Path(os.environ.get("KSHOT_DATA", "/nonexistent")) / "pictures"
# Names in baselines.json; it has no HOG.
PUBLISHED = {
    "pixels-1nn": "pixels_gray28_1nn",
    "pixels-lr": "pixels_rgb28_logreg",
    "colour-lr": "colour_histogram_logreg",
}


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_learn_classes_that_are_apart(name: str) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 5)
    features = np.eye(3)[labels].repeat(10, axis=1) + 0.1 * generator.normal(size=(15, 30))

    probabilities = RIVALS[name].fit(features, labels).predict_proba(features)

    assert probabilities.argmax(axis=1).tolist() == labels.tolist()
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_regression_in_the_span_is_the_same() -> None:
    """The penalty keeps weights in the span of the examples; beyond it nothing is learned."""
    generator = np.random.default_rng(0)
    features, queries = generator.normal(size=(12, 100)), generator.normal(size=(6, 100))
    labels = np.arange(12) % 3
    learned = LogisticRegression(1.0)
    learned.fit(features, labels)

    plain = Learner(C=1.0, max_iter=1000, tol=1e-8).fit(features, labels)

    expected = plain.predict_proba(queries)
    assert np.allclose(learned.predict_proba(queries), expected, atol=0.01)  # both stop early


def test_libraries_are_held_to_one_thread() -> None:
    with one_thread():
        assert {found["num_threads"] for found in threadpool_info()} == {1}


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "find_spec", lambda name: None if name == "skimage" else name)

    with pytest.raises(TrainingError, match=r"'scikit-image'.*pip install '.*\[try\]'"):
        check_rivals()


@pytest.mark.skipif(
    not (PICTURES / "baselines.json").exists(), reason="KSHOT_DATA names no folder with pictures"
)
def test_figures_agree_with_the_published_baselines() -> None:
    """Grocery, 5-shot, 25 tasks: each figure lies within both intervals together."""
    pictures, classes = read_set("grocery")
    published = json.loads((PICTURES / "baselines.json").read_text())["domains"]["grocery"]

    for name, told in PUBLISHED.items():
        features = features_of(pictures, RIVALS[name].describe)
        accuracies = [accuracy(name, features, classes, task) for task in range(25)]
        expected, half_width = published["5_shot"][told].values()
        error = 2 * float(np.std(accuracies)) / len(accuracies) ** 0.5
        assert abs(np.mean(accuracies) - expected) < error + half_width, name


def read_set(name: str) -> tuple[Sequence[bytes], Labels]:
    with tarfile.open(PICTURES / f"{name}.tar") as archive:
        files = sorted((item for item in archive if item.isfile()), key=lambda item: item.name)
        pictures = [archive.extractfile(item).read() for item in files]  # type: ignore[union-attr]
    names = [item.name.split("/")[1] for item in files]
    return pictures, np.unique(names, return_inverse=True)[1]


def accuracy(name: str, features: np.ndarray, classes: Labels, seed: int) -> float:
    generator = np.random.default_rng(seed)
    drawn = generator.choice(classes.max() + 1, 5, replace=False)
    rows = np.stack([generator.permutation(np.flatnonzero(classes == one))[:20] for one in drawn])
    support, queries = rows[:, :5].ravel(), rows[:, 5:].ravel()
    learned = RIVALS[name].fit(features[support], np.repeat(np.arange(5), 5))
    answers = learned.predict_proba(features[queries]).argmax(axis=1)
    return float((answers == np.repeat(np.arange(5), 15)).mean())
