"""From the trainer's errors to click's: wrong use exits with 2, failed work with 1."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from kshot.bundle import BundleError
from kshot.trainer.errors import RecipeError, TrainerError

__all__ = ["told_to_user"]


@contextmanager
def told_to_user() -> Iterator[None]:
    """Turn errors meant for the user into click's one line; others are bugs and pass through."""
    try:
        yield
    except RecipeError as error:
        raise click.UsageError(str(error)) from error
    except (TrainerError, BundleError) as error:
        raise click.ClickException(str(error)) from error
