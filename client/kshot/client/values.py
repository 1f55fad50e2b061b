"""Checks of the plain values of a call: text, numbers, flags and spans of time."""

from __future__ import annotations

import math
import operator
import os
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from kshot.client.errors import InputError

_MOST_SHOWN = 60  # characters
_NO_NUMBERS = (bool, np.timedelta64)  # although Python or NumPy counts them among the integers


def shown(value: object) -> str:
    """Return a value as an error shows it: on one line, and short."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an int of thousands of digits has no repr, nor has what a caller broke
        text = f"one of type {type(value).__name__}"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def check_text(name: str, value: object) -> str:
    """Return a plain string; raise `InputError` for what is none, or is no Unicode."""
    if not isinstance(value, str):
        raise InputError(f"{name}: expected a string, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: expected valid Unicode, got {shown(value)}") from error
    return str.__str__(value)  # of an Enum's member its text, not its name


def check_whole(name: str, value: object, bits: int) -> int:
    """Return a whole number that a signed field of so many bits can hold."""
    if isinstance(value, _NO_NUMBERS) or not isinstance(value, Integral):
        raise InputError(f"{name}: expected a whole number, got {shown(value)}")
    number, end = operator.index(value), 1 << (bits - 1)
    if not -end <= number < end:
        raise InputError(
            f"{name}: expected a whole number from {-end} to {end - 1}, got {shown(number)}"
        )
    return number


def check_number(name: str, value: object, expected: str = "a finite number") -> float:
    """Return a number that is finite, in any of the types that numbers have."""
    if not isinstance(value, _NO_NUMBERS) and isinstance(value, Real | Decimal):
        with suppress(OverflowError, ValueError):
            number = float(value)
            if math.isfinite(number):
                return number
    raise InputError(f"{name}: expected {expected}, got {shown(value)}")


def check_flag(name: str, value: object) -> bool:
    """Return a bool; 0 and 1 count as such."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral) and value in (0, 1):
        return bool(value)
    raise InputError(f"{name}: expected True or False, got {shown(value)}")


def check_seconds(
    name: str, value: object, expected: str = "a finite number of seconds or a timedelta"
) -> float:
    """Return a span of time in seconds, given as a number or as a timedelta."""
    span = value
    try:
        if isinstance(value, timedelta):
            span = value.total_seconds()
        elif isinstance(value, np.timedelta64):
            span = float(value / np.timedelta64(1, "s"))  # not a number for NaT
        return check_number(name, span, expected)
    except (InputError, TypeError):  # years and months have no length in seconds
        raise InputError(f"{name}: expected {expected}, got {shown(value)}") from None


def check_path(name: str, value: object) -> Path:
    """Return a path that a file can have; raise `InputError` for what is none."""
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if isinstance(path, str) and path:
        return Path(path)
    raise InputError(f"{name}: expected the path of a file, got {shown(value)}")


def check_request_id(value: object) -> str:
    """Return the text of a UUID, a new random one for None; raise `InputError` for another."""
    import uuid  # with the first adaptation

    if value is None:
        return str(uuid.uuid4())
    try:
        return str(uuid.UUID(str(value)))
    except (ValueError, RecursionError):
        raise InputError(f"request_id: expected a UUID, got {shown(value)}") from None
