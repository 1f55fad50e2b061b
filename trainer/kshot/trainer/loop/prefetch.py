"""Values that a thread makes ahead of their use."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

AHEAD = 2


@contextmanager
def prefetch(make: Callable[[int], T], start: int, stop: int) -> Iterator[Iterator[T]]:
    """Give an iterator over `make(start)` to `make(stop - 1)`, made by one thread.

    At most two are made ahead. An error of `make` is raised when its result is asked for. The
    thread ends with the context, after the value that it is making.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        yield _in_turn(thread.submit(make, number) for number in range(start, stop))
    finally:
        thread.shutdown(cancel_futures=True)


def _in_turn(submitted: Iterator[Future[T]]) -> Iterator[T]:
    pending = deque(islice(submitted, AHEAD))
    while pending:
        made = pending.popleft().result()
        pending.extend(islice(submitted, 1))
        yield made
