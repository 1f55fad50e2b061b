"""Whatever a value is, it is taken for what it says or refused by an `InputError` with its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kshot.client.errors import InputError
from kshot.client.values import (
    check_flag,
    check_number,
    check_path,
    check_seconds,
    check_text,
    check_whole,
    shown,
)


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


ODD: list[Any] = [
    None, True, np.False_, 0, -1, 2**31, 2**63, 10**5000, 0.5, 1e300, math.nan, -math.inf,
    "", "1", "a\0", "\ud800", "x" * 65536, np.str_("x"), b"x", bytearray(b"x"), memoryview(b"x"),
    [], (1,), {}, {1}, range(3), object(), Broken(), type, len, ..., 1j,
    np.int8(3), np.uint64(2**64 - 1), np.float16(2), np.float32("nan"), np.longdouble("1e400"),
    np.array(5), np.array([1, 2]), np.array([]), np.ma.masked, np.complex64(1),
    Decimal("1.5"), Decimal("sNaN"), Decimal("Infinity"), Fraction(1, 3), Path("x"),
    timedelta(1), timedelta.max, timedelta.min, datetime(2026, 11, 30), np.datetime64("2026"),
    np.timedelta64(1, "h"), np.timedelta64(1, "Y"), np.timedelta64("NaT"), np.timedelta64(5),
]  # fmt: skip
CHECKS: dict[str, tuple[Callable[[str, object], object], type]] = {
    "text": (check_text, str),
    "whole": (lambda name, value: check_whole(name, value, 64), int),
    "number": (check_number, float),
    "flag": (check_flag, bool),
    "seconds": (check_seconds, float),
    "path": (check_path, Path),
}


@pytest.mark.parametrize("kind", CHECKS)
def test_any_value_is_taken_or_refused(kind: str) -> None:
    check, expected = CHECKS[kind]
    taken = []
    for value in ODD:
        try:
            found = check("field", value)
        except InputError as error:
            assert str(error).startswith("field: expected ")
            assert len(str(error)) < 200 and "\n" not in str(error)
        else:
            taken.append(value)
            assert isinstance(found, expected)
            assert type(found) is expected or expected is Path

    assert taken


def test_values_keep_what_they_say() -> None:
    assert check_whole("n", np.uint8(200), 32) == 200
    assert check_number("n", Fraction(1, 4)) == 0.25
    assert check_seconds("n", np.timedelta64(90, "m")) == check_seconds("n", timedelta(hours=1.5))
    assert check_flag("n", np.True_) and check_flag("n", 1) and not check_flag("n", 0)
    assert shown(Broken()) == "one of type Broken"
    assert shown("a" * 100) == f"'{'a' * 58}…"
