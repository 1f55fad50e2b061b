"""Patience with a busy machine."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import pytest

_FACTOR = 8
T = TypeVar("T")


def with_more_time(attempt: Callable[[float], T], seconds: float) -> T:
    """Return what an attempt with so many seconds gives; one that fails has more the next time.

    For what needs a moment and then waits for its deadline: that is to be short, and a machine
    that does other things as well may take longer than that for the moment.
    """
    for _ in range(2):
        with suppress(Exception, pytest.fail.Exception):
            return attempt(seconds)
        seconds *= _FACTOR
    return attempt(seconds)
