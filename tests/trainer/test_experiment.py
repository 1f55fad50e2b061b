from __future__ import annotations

from dataclasses import replace

import pytest

from kshot.bundle.document import DocumentError
from kshot.trainer.experiment import (
    Arm,
    ArmTable,
    Experiment,
    Ordering,
    Panel,
    Sweep,
    arms_of,
    check_experiment,
)


def experiment(**changes: object) -> Experiment:
    made = Experiment(
        "both",
        "Both",
        "One arm and a sweep",
        (
            ArmTable("one", "one", ("outer.seed=1",)),
            ArmTable("many", "many", (), Sweep("outer.meta_step_size", (0.25, 1))),
        ),
        (Panel("curve", "along", "meta-iterations", "linear", ("one",)),),
        (Ordering("one is first", "many-1", "one", 0.0),),
    )
    return replace(made, **changes)


def test_a_sweep_is_an_arm_for_each_value() -> None:
    assert arms_of(experiment()) == (
        Arm("one", "one", "one", ("outer.seed=1",)),
        Arm(
            "many-0-25",
            "many, outer.meta_step_size 0.25",
            "many",
            ("outer.meta_step_size=0.25",),
            "outer.meta_step_size",
        ),
        Arm(
            "many-1",
            "many, outer.meta_step_size 1",
            "many",
            ("outer.meta_step_size=1",),
            "outer.meta_step_size",
        ),
    )


def test_an_experiment_whose_names_fit_is_accepted() -> None:
    check_experiment(experiment())
    check_experiment(experiment(orderings=(Ordering("no progress", "one", "start", -0.01),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"arms": (ArmTable("one", "a", ()), ArmTable("one", "b", ()))},
            "arms: expected names of their own, got two named one",
            id="twice",
        ),
        pytest.param(
            {"arms": (ArmTable("start", "a", ()),)},
            "arms: expected names of their own, got two named start",
            id="reserved",
        ),
        pytest.param(
            {"panels": (Panel("curve", "p", "x", "linear", ("other",)),)},
            r"panels\[0\]\.arms: expected one of: one, many, got other",
            id="panel of nothing",
        ),
        pytest.param(
            {"panels": (Panel("sweep", "p", "x", "linear", ("one",)),)},
            r"panels\[0\]\.arms: expected arms with a sweep, got one",
            id="sweep of one",
        ),
        pytest.param(
            {"panels": (Panel("final", "p", "x", "linear", ("many",)),)},
            r"panels\[0\]\.arms: expected arms without one, got many",
            id="point of a sweep",
        ),
        pytest.param(
            {"orderings": (Ordering("o", "one", "many", 0.0),)},
            r"orderings\[0\]\.higher: expected one of: one, many-0-25, many-1, start, got many",
            id="ordering of a line",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        check_experiment(experiment(**changes))
