"""How a benchmark's script refuses: one line, and exit code 1 or 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from kshot.bundle import BundleError
from kshot.trainer.errors import TrainerError

__all__ = ["WrongUse", "one_line"]


class WrongUse(click.ClickException):
    """What was asked for cannot be: exit code 2, where a failure has 1."""

    exit_code = 2


@contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors whose message is for the user into `ClickException`s of one line."""
    try:
        yield
    except (BundleError, TrainerError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error
