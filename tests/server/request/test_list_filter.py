from __future__ import annotations

import pytest

from kshot.server.errors import InvalidRequest
from kshot.server.request.list_filter import (
    MAX_CHARACTERS,
    MAX_TERMS,
    ListFilter,
    Term,
    filter_tokens,
    parse_filter,
)


def test_terms_are_read() -> None:
    text = (
        ' class_name = "a \\"cat\\"" AND expire_time<"2030-01-01T00:00:00Z"\n'
        "AND size_bytes >= 12 AND bundle_digest='3f'"
    )

    found = parse_filter(text)

    assert found.of_columns == (
        Term("expire_time", "<", 1893456000.0),
        Term("size_bytes", ">=", 12),
    )
    assert found.of_records == (
        Term("class_name", "=", 'a "cat"'),
        Term("bundle_digest", "=", "3f"),
    )
    assert found.earlier_by(6.0).terms[1].value == 1893455994.0
    assert found.admits(("dog", 'a "cat"'), "3f")
    assert not found.admits(("dog",), "3f")
    assert not found.admits(('a "cat"',), "3e")


@pytest.mark.parametrize("text", ["", " \n"])
def test_no_term_admits_all(text: str) -> None:
    assert parse_filter(text) == ListFilter(text)
    assert parse_filter(text).admits((), "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", "expected one of create_time, .*, got 'name' at character 1"),
        ("class_name", "expected = behind class_name, got the end"),
        ("class_name < 'a'", "expected = behind class_name, got '<' at character 12"),
        ("class_name =", "class_name: expected a name in quotes such as .*, got the end"),
        ("class_name = cat", "a name in quotes"),
        ("class_name = 'cat", "a name in quotes"),
        ("class_name = \"cat AND class_name = 'a'", "a name in quotes"),
        ("class_name = 'cat\\\\\\'", "a name in quotes"),
        ("class_name = 'a' OR class_name = 'b'", "expected AND between terms, got 'OR'"),
        ("class_name = 'a' AND", "expected another term behind AND, got 'AND' at character 18"),
        ("class_name = 'a' AND AND", "expected one of create_time, .*, got 'AND' at character 22"),
        ("size_bytes > 'a'", "a number of bytes"),
        ("size_bytes > -1", "a number of bytes"),
        (f"size_bytes > {10**18}", "a number of bytes"),
        ("create_time = '2030-01-01T00:00:00Z'", "expected < <= > >= behind create_time"),
        ("create_time > '2030-01-01'", "RFC 3339"),
        ("create_time > '2030-01-01T00:00:00'", "RFC 3339"),
        ("create_time > '2030-13-01T00:00:00Z'", "RFC 3339"),
        ("(class_name = 'a')", "got '\\(' at character 1"),
        ("\x1b[2J", "got '.x1b' at character 1"),
        (" AND ".join(["size_bytes > 1"] * (MAX_TERMS + 1)), f"at most {MAX_TERMS} terms"),
        ("x" * 4001, "at most 4000 characters, got 4001"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse_filter(text)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"' + "'" * (MAX_CHARACTERS - 1), 1),
        ("'" + '\\"' * (MAX_CHARACTERS // 2 - 1), 1),
        ("'" + "\\'" * (MAX_CHARACTERS // 2 - 1), 1),
        ("=" * MAX_CHARACTERS, 4 * MAX_TERMS + 1),
        ("a=" * (MAX_CHARACTERS // 2), 4 * MAX_TERMS + 1),
    ],
)
def test_hostile_filters_take_few_tokens(text: str, count: int) -> None:
    """A quote without its pair is looked at once, not again at each quote behind it."""
    assert len(filter_tokens(text)) == count
    with pytest.raises(InvalidRequest):
        parse_filter(text)
