from __future__ import annotations

import hashlib

import numpy as np

from kshot.server.request.digest import begin_adaptation_digest, weights_digest

SUPPORT = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
OPTIONS = {"seed": 0, "step_count": 10}


def test_weights_digest_by_hand() -> None:
    array = np.array([[1.5, -2.0]], np.float32)
    parts = (b"w", np.array([1, 2], "<u8").tobytes(), array.astype("<f4").tobytes())
    written = b"".join(len(part).to_bytes(8, "little") + part for part in parts)

    assert weights_digest({"w": array}) == hashlib.sha256(written).hexdigest()


def test_weights_digest_ignores_order_and_layout() -> None:
    a, b = np.ones((2, 3), np.float32), np.arange(4, dtype=np.float32).reshape(2, 2)
    turned = np.asfortranarray(b)

    assert weights_digest({"a": a, "b": b}) == weights_digest({"b": turned, "a": a})


def test_weights_digest_changes_with_any_part() -> None:
    array = np.arange(6, dtype=np.float32)
    changed = array.copy()
    changed[0] = -0.0
    digests = {
        weights_digest({"a": array}),
        weights_digest({"b": array}),
        weights_digest({"a": array.reshape(2, 3)}),
        weights_digest({"a": changed}),
        weights_digest({"a": array[:3], "b": array[3:]}),
    }

    assert len(digests) == 5


def test_adaptation_digest_changes_with_any_part() -> None:
    digests = [
        begin_adaptation_digest("d", SUPPORT)([0, 1], ["a", "b"], OPTIONS),
        begin_adaptation_digest("e", SUPPORT)([0, 1], ["a", "b"], OPTIONS),
        begin_adaptation_digest("d", SUPPORT[::-1])([0, 1], ["a", "b"], OPTIONS),
        begin_adaptation_digest("d", SUPPORT.reshape(2, 1, 1, 4))([0, 1], ["a", "b"], OPTIONS),
        begin_adaptation_digest("d", SUPPORT)([1, 0], ["a", "b"], OPTIONS),
        begin_adaptation_digest("d", SUPPORT)([0, 1], ["ab", ""], OPTIONS),
        begin_adaptation_digest("d", SUPPORT)([0, 1], ["a", "b"], OPTIONS | {"seed": 1}),
    ]

    assert len(set(digests)) == len(digests)


def test_adaptation_digest_ignores_option_order() -> None:
    turned = dict(reversed(OPTIONS.items()))
    finish = begin_adaptation_digest("d", SUPPORT)

    assert finish([0, 1], ["a", "b"], turned) == finish((0, 1), ("a", "b"), OPTIONS)


def test_a_digest_that_was_begun_is_finished_again_and_again() -> None:
    finish = begin_adaptation_digest("d", SUPPORT)

    for names in (["a", "b"], ["b", "a"], ["a", "b"]):
        wanted = begin_adaptation_digest("d", SUPPORT)([0, 1], names, OPTIONS)
        assert finish([0, 1], names, OPTIONS) == wanted
