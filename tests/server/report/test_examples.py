"""Notes on examples: blank, twice there, mislabelled, far."""

from __future__ import annotations

import numpy as np

from kshot.server.report.examples import ExampleNote, Flaw, note_answers, note_pictures


def pictures(count: int) -> np.ndarray:
    """Return random pictures `(count, 3, 20, 24)` in 0..1."""
    generator = np.random.default_rng(0)
    coarse = generator.random((count, 3, 5, 6), dtype=np.float32)
    return coarse.repeat(4, axis=2).repeat(4, axis=3)


def test_different_pictures_are_not_noted() -> None:
    assert list(note_pictures(pictures(10), np.arange(10) % 5)) == []


def test_a_blank_picture_is_noted() -> None:
    images = pictures(6)
    images[4] = 0.7

    assert list(note_pictures(images, np.arange(6) % 3)) == [ExampleNote(4, Flaw.BLANK)]


def test_pictures_that_are_all_blank_are_noted() -> None:
    images = np.full((3, 1, 28, 28), 0.25, np.float32)

    notes = list(note_pictures(images, np.arange(3)))

    assert [note.flaw for note in notes] == [Flaw.BLANK] * 3


def test_the_same_picture_in_two_classes_is_a_duplicate() -> None:
    images = pictures(6)
    images[5] = images[1] + 0.001

    notes = list(note_pictures(images, np.array([0, 0, 1, 1, 2, 2])))

    assert notes == [ExampleNote(5, Flaw.DUPLICATE, other_index=1, other_class=0)]


def test_the_same_picture_twice_in_a_class_is_near_identical() -> None:
    images = pictures(6)
    images[1] = images[0]

    notes = list(note_pictures(images, np.array([0, 0, 1, 1, 2, 2])))

    assert notes == [ExampleNote(1, Flaw.NEAR_IDENTICAL, other_index=0, other_class=0)]


def test_an_example_that_the_others_give_to_another_class_is_mislabelled() -> None:
    classes = np.arange(12) % 3
    logits = np.eye(3, dtype=np.float32)[classes] * 3
    logits[4] = [0, 0, 6]

    assert list(note_answers(logits, classes)) == [ExampleNote(4, Flaw.MISLABELLED, other_class=2)]


def test_an_example_that_is_like_no_class_is_far() -> None:
    classes = np.arange(12) % 3
    generator = np.random.default_rng(0)
    logits = np.eye(3, dtype=np.float32)[classes] * 4
    logits += generator.normal(0, 0.2, logits.shape).astype(np.float32)
    logits[7] = [-3, -2.9, -3]

    assert list(note_answers(logits, classes)) == [ExampleNote(7, Flaw.FAR, other_class=1)]


def test_classes_with_one_example_take_no_part() -> None:
    logits = np.zeros((3, 3), np.float32)
    logits[:, 0] = 20

    assert list(note_answers(logits, np.arange(3))) == []
