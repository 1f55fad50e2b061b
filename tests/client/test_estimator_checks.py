"""What scikit-learn asks of every classifier, asked of ours and a server of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from kshot.client import FewShotClassifier
from kshot.client.classifier import EXPECTED_FAILED_CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
CHECKED = FewShotClassifier(
    image_shape=(1, -1), adapt_options={"step_count": 1, "estimate": False}, timeout=120
)


@pytest.fixture(scope="module", autouse=True)
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the local server that all checks share serve one small bundle, and compile nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path_factory.mktemp("no-compiler")))
        patch.setenv("KSHOT_BUNDLE", "omniglot")
        patch.setenv("KSHOT_ENGINES", "1")
        yield


# Not strict: sums of other processors may agree by chance.
@parametrize_with_checks(
    [CHECKED], expected_failed_checks=lambda _: EXPECTED_FAILED_CHECKS, xfail_strict=False
)
def test_it_keeps_the_conventions(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], None]
) -> None:
    check(estimator)


def test_answers_hardly_depend_on_other_pictures() -> None:
    """The two checks that fail hold to the digit that their reason names."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (30, 28, 28), np.uint8)
    classifier = CHECKED.fit(pictures, np.arange(30) % 3)
    together, turned = classifier.predict_proba(pictures), rng.permutation(30)
    alone = [classifier.predict_proba(picture[None])[0] for picture in pictures]

    assert together == pytest.approx(np.array(alone), abs=1e-4)
    assert together[turned] == pytest.approx(classifier.predict_proba(pictures[turned]), abs=1e-4)


def test_the_page_lists_what_fails() -> None:
    page = PAGE.read_text()

    for check, reason in EXPECTED_FAILED_CHECKS.items():
        assert f"`{check}`" in page
        assert reason in page
