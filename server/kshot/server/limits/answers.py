"""The bytes of answers: known before any work, and held until they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from kshot.bundle import Limits
from kshot.server.call_context import current_call, until_sent
from kshot.server.limits.shares import Shares
from kshot.server.request.images import image_count
from kshot.server.request.inputs import PredictInput
from kshot.server.request.validation import MAX_CLASS_NAME_BYTES
from kshot.server.request.violations import Violations

# What the parts of an answer take at most: tags, lengths, numbers, a description without names.
_BASE, _PREDICTION, _TOP_CLASS, _NUMBER, _NAME = 8192, 28, 18, 4, 8
_RECORD = 1024
# The number of calls bounds smaller answers.
_SMALL = 2**16
# How many answers of the greatest size may be under way.
_AT_ONCE = 16


def answer_bytes(query: PredictInput, query_count: int, class_names: Sequence[str]) -> int:
    """Return how many bytes an answer to queries takes at most, without its warnings."""
    names = sorted((len(name.encode()) for name in class_names), reverse=True)
    way, top = len(names), max(0, min(query.top_k, len(names)))
    each = _PREDICTION + top * _TOP_CLASS + way * _NUMBER * (2 if query.return_logits else 1)
    if not query.omit_class_names:
        each += sum(names[:1]) + sum(names[:top])
    return _BASE + sum(names) + way * (_NAME + way) + query_count * each


def record_bytes(max_way: int) -> int:
    """Return how many bytes the description of an adapted model takes at most."""
    return _RECORD + max_way * (MAX_CLASS_NAME_BYTES + _NAME)


def check_answer(
    query: PredictInput,
    query_count: int,
    class_names: Sequence[str],
    most: int,
    violations: Violations,
) -> int:
    """Return what `answer_bytes` does; note an answer of more than `most` bytes."""
    size = answer_bytes(query, query_count, class_names)
    if size > most:
        ways = ["ask for fewer queries at a time"]
        if query.top_k > 1:
            ways.append("a smaller top_k")
        if not query.omit_class_names:
            ways.append("omit_class_names")
        violations.add(
            "queries",
            f"expected an answer of at most {most} bytes, got {query_count} queries whose answer "
            f"takes up to {size}; {' or '.join(ways)}",
        )
    return size


def _bytes_at_most(query: PredictInput, query_count: int, way: int) -> int:
    """Return how many bytes an answer takes with the longest names, without a look at them."""
    top = max(0, min(query.top_k, way))
    each = _PREDICTION + top * _TOP_CLASS + way * 2 * _NUMBER + (1 + top) * MAX_CLASS_NAME_BYTES
    names = way * (MAX_CLASS_NAME_BYTES + _NAME + way)
    return _BASE + names + query_count * each


class AnswerRoom:
    """Bounds the bytes of answers that are made or not yet sent, and of exports apart.

    An answer has `most` bytes at most. The current call has its room until its answer is sent.
    """

    def __init__(self, most: int = 2**22) -> None:
        self._most = most
        self._answers = Shares(_AT_ONCE * most)
        self._exports = Shares(max(2**27, _AT_ONCE * most))

    async def hold(
        self,
        query: PredictInput,
        class_names: Sequence[str],
        models: Iterable[Limits],
        violations: Violations,
    ) -> None:
        """Wait for room for an answer of one of the models; raise what is wrong if it is too large.

        A request of more queries or classes than the models take is left to be refused.
        """
        count = image_count(query.queries) or 0
        if _bytes_at_most(query, count, len(class_names)) <= min(_SMALL, self._most):
            return
        limits = list(models)
        if count > max(each.max_query_count for each in limits):
            return
        if len(class_names) > max(each.max_way for each in limits):
            return
        size = check_answer(query, count, class_names, self._most, violations)
        if size > self._most:
            violations.check()
        if size > _SMALL:
            await _hold(self._answers, size)

    async def hold_numbers(self, count: int, violations: Violations) -> None:
        """Wait for room for an answer of so many numbers; raise `InvalidRequest` for too many."""
        size = _BASE + count * _NUMBER
        if size > self._most:
            violations.add(
                "queries",
                f"expected an answer of at most {self._most} bytes, got one of {size}; send fewer "
                "images at a time",
            )
            violations.check()
        if size > _SMALL:
            await _hold(self._answers, size)

    async def hold_page(self, page_size: int, max_way: int) -> int:
        """Wait for room for a page of descriptions; return how many of `page_size` fit."""
        each = record_bytes(max_way)
        page_size = max(1, min(page_size, self._most // each))
        await _hold(self._answers, page_size * each)
        return page_size

    async def hold_export(self, size_bytes: int) -> None:
        """Wait for room for an export."""
        await _hold(self._exports, size_bytes)


async def _hold(room: Shares, size_bytes: int) -> None:
    call = current_call()
    size = min(size_bytes, room.total // 2)
    with call.measure("queue"):
        await room.take(call.caller, size)
    until_sent(partial(room.give, call.caller, size))
