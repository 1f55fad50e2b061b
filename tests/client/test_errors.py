"""Every reason that the server can give has a class here."""

from __future__ import annotations

import re

import grpc
import pytest

from kshot.client import errors
from kshot.client.errors import BY_CODE, BY_REASON, KshotError
from kshot.server.errors import RequestError


def subclasses(base: type) -> list[type]:
    """Return a class and everything below it."""
    return [base, *(found for child in base.__subclasses__() for found in subclasses(child))]


@pytest.mark.parametrize("server_error", subclasses(RequestError), ids=lambda kind: kind.__name__)
def test_every_server_error_has_a_client_class(server_error: type[RequestError]) -> None:
    by_reason = BY_REASON.get(server_error.reason)

    assert by_reason is not None, f"no class for reason {server_error.reason}"
    assert issubclass(by_reason, BY_CODE[server_error.code])


def test_every_reason_comes_from_the_server() -> None:
    """A class for a reason that nobody sends would be dead."""
    sent = {error.reason for error in subclasses(RequestError)}

    assert set(BY_REASON) <= sent


def test_every_status_has_an_error_class() -> None:
    for code in grpc.StatusCode:
        assert issubclass(errors.error_class(code, ""), KshotError)


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = set(re.findall(r"\b\w+Error\b", errors.__doc__ or "")) - {"ValueError"}

    assert drawn == {error.__name__ for error in subclasses(KshotError)}


def test_a_refused_input_is_a_value_error_too() -> None:
    assert issubclass(errors.InputError, ValueError)
