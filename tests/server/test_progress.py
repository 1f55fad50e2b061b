from __future__ import annotations

from kshot.server.progress import Progress, Stage, State


def test_changes_between_two_looks_are_told_as_one() -> None:
    progress = Progress(0.1)
    progress.enter(Stage.PREPARING)
    progress.begin_loop(Stage.ADAPTING, "tiny", 3)
    progress.add([0.5])
    progress.add([0.25, 0.125])

    assert list(progress.news()) == [State(Stage.ADAPTING, "tiny", 3, 3, (0.5, 0.25, 0.125))]


def test_a_look_without_a_change_tells_nothing() -> None:
    progress = Progress(0.1)

    assert list(progress.news()) == [State()]
    assert list(progress.news()) == []


def test_losses_belong_to_their_loop() -> None:
    """A fold's begin at step 0 again."""
    progress = Progress(0.1)
    progress.begin_loop(Stage.ADAPTING, "tiny", 2)
    progress.add([0.5, 0.25])
    progress.begin_loop(Stage.ESTIMATING, "tiny", 2)
    progress.add([0.75])
    progress.enter(Stage.STORING)

    assert list(progress.news()) == [
        State(Stage.ADAPTING, "tiny", 2, 2, (0.5, 0.25)),
        State(Stage.ESTIMATING, "tiny", 1, 2, (0.75,)),
        State(Stage.STORING, "tiny", 1, 2),
    ]


def test_losses_are_told_once() -> None:
    progress = Progress(0.1)
    progress.begin_loop(Stage.ADAPTING, "tiny", 2)
    progress.add([0.5])
    list(progress.news())
    progress.enter(Stage.STORING)

    assert list(progress.news()) == [State(Stage.STORING, "tiny", 1, 2)]
