"""Options of `kshot bench serve`: how they are read, and which of them go together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import click

_MOST_CALLERS = 10_000


def read_positive(
    _context: click.Context, _option: click.Parameter, value: float | None
) -> float | None:
    """Pass a finite number above 0, or None; raises ``BadParameter`` for others."""
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"got {value:g}, wanted a number above 0")
    return value


def read_counts(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    """Read whole numbers between commas, in increasing order and each once.

    Raises ``BadParameter`` for others.
    """
    words = [word.strip() for word in value.split(",")]
    fit = (word.isascii() and word.isdigit() and 1 <= int(word) <= _MOST_CALLERS for word in words)
    if not all(fit):
        raise click.BadParameter(
            f"got {value}, wanted whole numbers from 1 to {_MOST_CALLERS} between commas, "
            "such as 1,8,64"
        )
    return tuple(sorted({int(word) for word in words}))


def refuse(context: click.Context, flags: Mapping[str, str], why: str) -> None:
    """Raise ``UsageError`` when one of the flags, named by their parameters, was given."""
    for parameter, flag in flags.items():
        if context.get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flag} {why}")
