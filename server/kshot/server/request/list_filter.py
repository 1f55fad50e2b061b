"""The filter of a list of adapted models: terms joined by AND, as in AIP-160."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from kshot.server.errors import InvalidRequest
from kshot.server.request.violations import shorten

MAX_TERMS = 16
MAX_CHARACTERS = 4000
# A term and its AND; one token more is noticed by the number of terms.
_MAX_TOKENS = 4 * MAX_TERMS

Test = Callable[[Any, Any], bool]

COMPARISONS: dict[str, Test] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}
TIMES = ("create_time", "expire_time")
_ORDERED = ("<", "<=", ">", ">=")
# Field: its comparisons, and what it is compared with.
_FIELDS = {
    **dict.fromkeys(TIMES, (_ORDERED, 'an RFC 3339 time such as "2030-01-01T00:00:00Z"')),
    "size_bytes": ((*_ORDERED, "="), "a number of bytes such as 1000000"),
    "class_name": (("=",), 'a name in quotes such as "cat"'),
    "bundle_digest": (("=",), 'a digest in quotes such as "3f…"'),
}
# A text without its last quote is one token to the end: no quote in it is tried again.
_TOKEN = re.compile(
    r"""(?P<word>[A-Za-z_][\w.]*) | (?P<comparison>[<>!]?=|[<>:])
    | (?P<text>"(?:[^"\\]|\\.)*+" | '(?:[^'\\]|\\.)*+') | (?P<unended>["'].*)
    | (?P<number>\d+) | (?P<other>\S)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True)
class Term:
    """One condition; times are Unix seconds."""

    field: str
    comparison: str
    value: float | str


@dataclass(frozen=True)
class ListFilter:
    """Conditions that hold together, and the text that they came from."""

    text: str = ""
    terms: tuple[Term, ...] = ()

    @property
    def of_columns(self) -> tuple[Term, ...]:
        """Return the terms about times and sizes."""
        return tuple(term for term in self.terms if term.field in (*TIMES, "size_bytes"))

    @property
    def of_records(self) -> tuple[Term, ...]:
        """Return the terms about class names, bundles and their version."""
        fields = ("class_name", "bundle_digest", "model_version")
        return tuple(term for term in self.terms if term.field in fields)

    def of_version(self, version: int) -> ListFilter:
        """Return the filter for models adapted from a version alone."""
        terms = (*self.terms, Term("model_version", "=", version))
        return replace(self, text=f"{self.text}@{version}", terms=terms)

    def earlier_by(self, seconds: float) -> ListFilter:
        """Return the filter with earlier times."""
        moved = (
            replace(term, value=float(term.value) - seconds) if term.field in TIMES else term
            for term in self.terms
        )
        return replace(self, terms=tuple(moved))

    def admits(self, class_names: Sequence[str], bundle_digest: str, version: int = 0) -> bool:
        """Tell whether a model fits the terms of records."""
        own = {"bundle_digest": bundle_digest, "model_version": version}
        return all(
            term.value in class_names
            if term.field == "class_name"
            else term.value == own[term.field]
            for term in self.of_records
        )


def parse_filter(text: str) -> ListFilter:
    """Read a filter; raise `InvalidRequest` that says where it is wrong."""
    if len(text) > MAX_CHARACTERS:
        raise _refused(f"expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    tokens = filter_tokens(text)
    terms: list[Term] = []
    for start in range(0, len(tokens), 4):
        field, comparison, value, joint = (*tokens[start : start + 4], None, None, None, None)[:4]
        if len(terms) == MAX_TERMS:
            raise _refused(f"expected at most {MAX_TERMS} terms")
        terms.append(_term(field, comparison, value))
        if joint is not None and (joint[0] != "AND" or start + 4 == len(tokens)):
            expected = "another term behind AND" if joint[0] == "AND" else "AND between terms"
            raise _refused(f"expected {expected}, got {_place(joint)}")
    return ListFilter(text, tuple(terms))


def filter_tokens(text: str) -> list[re.Match[str]]:
    """Return the tokens of a filter, at most one more than it may have."""
    return list(islice(_TOKEN.finditer(text), _MAX_TOKENS + 1))


def _term(
    field: re.Match[str] | None, comparison: re.Match[str] | None, value: re.Match[str] | None
) -> Term:
    if field is None or field[0] not in _FIELDS:
        raise _refused(f"expected one of {', '.join(_FIELDS)}, got {_place(field)}")
    comparisons, wanted = _FIELDS[field[0]]
    if comparison is None or comparison[0] not in comparisons:
        expected = f"{' '.join(comparisons)} behind {field[0]}"
        raise _refused(f"expected {expected}, got {_place(comparison)}")
    read = None if value is None else _value(field[0], value)
    if read is None:
        raise _refused(f"{field[0]}: expected {wanted}, got {_place(value)}")
    return Term(field[0], comparison[0], read)


def _value(field: str, token: re.Match[str]) -> float | str | None:
    """Return what a field is compared with, None if it does not fit."""
    if field == "size_bytes":
        return int(token[0]) if token["number"] and len(token[0]) < 19 else None
    if not token["text"]:
        return None
    text = re.sub(r"\\(.)", r"\1", token[0][1:-1], flags=re.DOTALL)
    if field not in TIMES:
        return text
    try:
        return datetime.fromisoformat(text).timestamp() if _TIME.fullmatch(text) else None
    except (ValueError, OverflowError):
        return None


def _place(token: re.Match[str] | None) -> str:
    if token is None:
        return "the end"
    return f"{shorten(token[0], 40)!r} at character {token.start() + 1}"


def _refused(problem: str) -> InvalidRequest:
    return InvalidRequest.about("filter", problem)
