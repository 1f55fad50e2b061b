"""A changed support set: which examples stay, in which classes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kshot.bundle import BatchSizeRule, Head, HeadPolicy, Limits, Manifest, StepCountRule
from kshot.server.errors import InvalidRequest
from kshot.server.lives.revision import (
    RevisedLabels,
    Revision,
    check_change_count,
    revise_labels,
    revised_options,
)
from kshot.server.request.inputs import SupportSet, TensorImages
from kshot.server.request.options import Bounds, TtlLimits, resolve_options
from kshot.server.request.violations import Violations

LIMITS = Limits(
    max_way=4, max_support_count=8, max_query_count=9, max_step_count=9, max_learning_rate=1.0
)
CLASSES, NAMES = (0, 0, 1, 1, 2), ("cat", "dog", "owl")


def added(*labels: int, names: tuple[str, ...]) -> SupportSet:
    return SupportSet(TensorImages("FP32", (len(labels), 1, 2, 2), b""), labels, names)


def revise(
    removed: tuple[int, ...] = (),
    relabellings: tuple[tuple[int, str], ...] = (),
    more: SupportSet | None = None,
) -> RevisedLabels:
    violations = Violations()
    revision = Revision("am-x", removed, relabellings, more or SupportSet(None, (), ()), {})
    labels = revise_labels(CLASSES, NAMES, revision, LIMITS, violations)
    violations.check()
    return labels


def test_without_changes_all_stays() -> None:
    assert revise() == RevisedLabels((0, 1, 2, 3, 4), CLASSES, NAMES)


def test_a_class_without_examples_goes() -> None:
    """The others move up, in their order."""
    assert revise(removed=(1, 0)) == RevisedLabels((2, 3, 4), (0, 0, 1), ("dog", "owl"))
    assert revise(relabellings=((4, "cat"),)).class_names == ("cat", "dog")


def test_new_classes_come_behind_in_the_order_of_their_first_example() -> None:
    labels = revise(
        relabellings=((2, "emu"), (4, "ape")),
        removed=(0,),
        more=added(0, 1, 0, names=("ape", "dog")),
    )

    assert labels.rows == (1, 2, 3, 4)
    assert labels.class_names == ("cat", "dog", "emu", "ape")
    assert labels.class_indices == (0, 2, 1, 3, 3, 1, 3)


def test_everything_wrong_is_told() -> None:
    twice = added(0, 3, 1, names=("cat", "cat"))

    with pytest.raises(InvalidRequest) as caught:
        revise((0, 5, 0, -1), ((0, "cat"), (2, " "), (2, "x"), (9, "y" * 300)), twice)

    assert {each.field: each.description for each in caught.value.violations} == {
        "removed_indices[1]": "expected 0 to 4, got 5",
        "removed_indices[2]": "expected each example once, got 0 again",
        "removed_indices[3]": "expected 0 to 4, got -1",
        "relabellings[0].index": "expected an example that stays, got 0, which is removed",
        "relabellings[1].class_name": "expected a name, got ' '",
        "relabellings[2].index": "expected each example once, got 2 again",
        "relabellings[3].index": "expected 0 to 4, got 9",
        "added.class_names[1]": "expected distinct names, got 'cat' twice",
        "added.class_indices[1]": "expected 0 to 1, got 3",
    }


def test_few_of_many_problems_are_noted() -> None:
    """Each takes time and memory, and an answer has room for few."""
    names = tuple((place % 5, "") for place in range(5000))
    revision = Revision("am-x", (9,) * 5000, names, SupportSet(None, (), ()), {})
    violations = Violations()

    revise_labels(CLASSES, NAMES, revision, LIMITS, violations)

    assert len(violations) < 40
    with pytest.raises(InvalidRequest, match="got 5000 that do not"):
        violations.check()


def test_more_changes_than_examples_are_refused() -> None:
    violations = Violations()
    nothing = SupportSet(None, (), ())
    fits = Revision("am-x", (0,) * 8, ((0, "a"),) * 8, nothing, {})
    more = Revision("am-x", (0,) * 9, ((0, "a"),) * 10, nothing, {})

    assert check_change_count(fits, LIMITS, violations)
    assert not check_change_count(more, LIMITS, violations)
    with pytest.raises(InvalidRequest) as caught:
        violations.check()
    assert {each.field: each.description for each in caught.value.violations} == {
        "removed_indices": "expected at most 8, got 9; name each example once",
        "relabellings": "expected at most 8, got 10; name each example once",
    }


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"removed": (0, 1, 4)}, "removed_indices", "expected 2 or more classes to be left"),
        (
            {"more": added(0, 1, names=("a", "b"))},
            "added.class_names",
            "expected at most 4 classes in all, got 5",
        ),
        (
            {"more": added(0, 0, 0, 0, names=("cat",))},
            "added.images",
            "expected at most 8 examples in all, got 9",
        ),
        (
            {"more": SupportSet(None, (0,), ())},
            "added.class_names",
            "expected 1 to 4 classes, got 0",
        ),
    ],
)
def test_too_few_and_too_many_are_told(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        revise(**changes)

    (violation,) = caught.value.violations
    assert violation.field == field
    assert violation.description.startswith(message)


def test_defaults_follow_the_new_numbers(manifest: Manifest) -> None:
    """An option that had its default counts as left out, others hold."""
    loop = replace(
        manifest.inner_loop,
        step_count_by_shot=(StepCountRule(max_shot=1, step_count=2),),
        batch_size_by_way=(BatchSizeRule(max_way=3, batch_size=5), BatchSizeRule(9, 10)),
    )
    manifest = replace(manifest, inner_loop=loop, head=HeadPolicy(Head.TRAINED, (Head.TRAINED,)))
    before = Bounds(manifest, 3, 3, TtlLimits(60.0, 90.0))
    after = replace(before, way=5, support_count=20)
    first = resolve_options({"seed": 7, "ttl": 90.0}, before, Violations())
    assert (first.step_count, first.batch_size) == (2, 5)

    asked = revised_options(first, replace(before, ttl=TtlLimits(60.0, 80.0)), {"estimate": False})
    again = resolve_options(asked, after, Violations())

    assert asked == {"seed": 7, "ttl": 80.0, "estimate": False}
    assert (again.step_count, again.batch_size) == (loop.step_count, 10)
    kept = revised_options(resolve_options({"step_count": 3}, before, Violations()), before, {})
    assert kept == {"step_count": 3}
