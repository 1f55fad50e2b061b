from __future__ import annotations

import pytest

from kshot.client.commands.score import score, wilson


def test_the_interval_is_that_of_wilson() -> None:
    """By hand: z² = 2.7057, so (0.5 ± 1.6449 √(0.25/10 + 2.7057/400)/1.27057 …)."""
    low, high = wilson(5, 10)

    assert (low, high) == (pytest.approx(0.2693, abs=1e-4), pytest.approx(0.7307, abs=1e-4))
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 10)[0] == 0


def test_classes_without_images_have_no_accuracy() -> None:
    scored = score(("cat", "dog"), [("cat", "cat"), ("cat", None)])

    assert scored is not None
    assert scored.row("cat") == [1, 0, 1]
    document = scored.document()
    assert isinstance(document["per_class"], list)
    assert document["per_class"][1] == {
        "class": "dog",
        "count": 0,
        "correct_count": 0,
        "accuracy": None,
    }


def test_nothing_has_no_score() -> None:
    assert score(("cat",), []) is None
