from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from kshot.bundle.document import DocumentError, Rule, parse, plain, read_json


@dataclass(frozen=True)
class Leaf:
    """Holds one of each kind of value."""

    kind: Literal["leaf"]
    size: Annotated[int, Rule("an even integer", lambda value: value % 2 == 0)]
    rate: float
    names: Mapping[str, int | str]


@dataclass(frozen=True)
class Tree:
    """Holds leaves."""

    leaves: tuple[Leaf, ...]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Branch:
    """May hold a size."""

    name: str
    size: Annotated[int, Rule("an even integer", lambda value: value % 2 == 0)] | None = None


def document() -> dict[str, object]:
    leaf = {"kind": "leaf", "size": 2, "rate": 1, "names": {"b": "x", "a": 1}}
    return {"leaves": [leaf], "shape": [3, 4]}


def test_parses_what_plain_writes() -> None:
    tree = parse(Tree, document())

    assert tree == Tree((Leaf("leaf", 2, 1.0, {"a": 1, "b": "x"}),), (3, 4))
    assert parse(Tree, plain(tree)) == tree


def test_plain_sorts_mappings_and_keeps_the_order_of_fields() -> None:
    leaf = plain(Leaf("leaf", 2, 1.0, {"b": "x", "a": 1}))

    assert isinstance(leaf, dict)
    assert list(leaf) == ["kind", "size", "rate", "names"]
    assert list(leaf["names"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("shape",), [3], "shape: expected 2 items, got 1"),
        (("shape",), "34", 'shape: expected a list, got "34"'),
        (("shape",), [3, True], "shape[1]: expected an integer, got true"),
        (("shape",), [3, 4.0], "shape[1]: expected an integer, got 4.0"),
        (("extra",), 1, "extra: unknown key; expected one of leaves, shape"),
        (("leaves", 0, "size"), 3, "leaves[0].size: expected an even integer, got 3"),
        (("leaves", 0, "kind"), "tree", 'leaves[0].kind: expected one of leaf, got "tree"'),
        (("leaves", 0, "rate"), "1", 'leaves[0].rate: expected a finite number, got "1"'),
        (("leaves", 0, "rate"), 10**400, "leaves[0].rate: expected a finite number, got 1000"),
        (
            ("leaves", 0, "names", "a"),
            None,
            "leaves[0].names.a: expected an integer or a string, got null",
        ),
        (("leaves", 0), [], "leaves[0]: expected an object, got []"),
    ],
)
def test_names_the_field_and_what_is_wrong(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    changed = document()
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    with pytest.raises(DocumentError) as caught:
        parse(Tree, changed)

    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 200


def test_refuses_a_missing_key() -> None:
    with pytest.raises(DocumentError, match="shape: required key is missing"):
        parse(Tree, {"leaves": []})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"{", id="cut"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b'{"a": NaN}', id="not finite"),
        pytest.param(b'{"a": 1, "a": 2}', id="key twice"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"1" * 10_000, id="long number"),
    ],
)
def test_refuses_text_that_is_not_plain_json(text: bytes) -> None:
    with pytest.raises(DocumentError):
        read_json(text)


def test_an_optional_key_may_be_left_out_and_is_read_strictly_when_it_is_there() -> None:
    assert parse(Branch, {"name": "a"}) == Branch("a")
    assert parse(Branch, {"name": "a", "size": 4}) == Branch("a", 4)
    assert plain(Branch("a")) == {"name": "a"}
    assert plain(Branch("a", 4)) == {"name": "a", "size": 4}
    for size, got in ((3, "3"), (None, "null"), ("4", '"4"')):
        with pytest.raises(DocumentError, match=f"size: expected an [a-z ]*, got {got}"):
            parse(Branch, {"name": "a", "size": size})
