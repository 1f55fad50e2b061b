"""The violations of one request, collected before it is refused."""

from __future__ import annotations

from collections.abc import Iterable

from kshot.server.error_details import FieldViolation
from kshot.server.errors import InvalidRequest

# An error travels in HTTP/2 trailers, of which clients accept 8 KiB in all, base64 included; the
# message repeats what the details say.
_MAX_BYTES = 1600
_MAX_DESCRIPTION = 240


class Violations:
    """The violations of one request, in the order in which they were found."""

    def __init__(self, found: Iterable[FieldViolation] = ()) -> None:
        self._found = list(found)

    def __len__(self) -> int:
        return len(self._found)

    def copy(self) -> Violations:
        """Return what was found so far, to add to it on its own."""
        return Violations(self._found)

    def add(self, field: str, description: str) -> None:
        """Note that `field` is invalid: what was expected and what it was."""
        self._found.append(FieldViolation(field, shorten(description, _MAX_DESCRIPTION)))

    def extend(self, others: Violations) -> None:
        """Note what others found, behind."""
        self._found += others._found

    def check(self) -> None:
        """Raise `InvalidRequest` if there are violations; those beyond its size are counted."""
        if not self._found:
            return
        shown: list[FieldViolation] = []
        used = 0
        for violation in self._found:
            used += len(str(violation).encode())
            if shown and used > _MAX_BYTES:
                rest = len(self._found) - len(shown)
                shown.append(
                    FieldViolation(
                        violation.field,
                        f"{rest} further violations are not shown; the first is here",
                    )
                )
                break
            shown.append(violation)
        raise InvalidRequest(shown)


def plain_number(value: float) -> str:
    """Return a number in the digits that a person would write, millions without an exponent."""
    return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:g}"


def plain_seconds(seconds: float) -> str:
    """Return seconds with their unit, and as days where there are many."""
    text = f"{plain_number(seconds)} s"
    return f"{text} ({plain_number(seconds / 86400)} days)" if 172800 <= seconds < 1e15 else text


def shorten(text: str, limit: int) -> str:
    """Return text of at most `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}\N{HORIZONTAL ELLIPSIS}"
