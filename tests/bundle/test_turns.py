from __future__ import annotations

from kshot.bundle.turns import Turns


def taken(turns: Turns[str]) -> str:
    """Take all items."""
    order = ""
    while (caller := turns.next()) is not None:
        order += turns.take(caller)
    return order


def test_callers_take_turns_and_each_is_served_in_order() -> None:
    turns: Turns[str] = Turns()
    for caller, items in (("x", "1234"), ("y", "ab"), ("z", "A")):
        for item in items:
            turns.add(caller, item)

    assert taken(turns) == "1aA2b34"
    assert not turns


def test_whose_turn_is_longest_ago_comes_first() -> None:
    """Also before those who waited already."""
    turns: Turns[str] = Turns()
    turns.add("x", "1")
    turns.add("x", "2")
    assert turns.take("x") == "1"
    turns.add("y", "a")

    assert turns.others_wait("x")
    assert taken(turns) == "a2"
    turns.add("x", "0", first=True)
    assert not turns.others_wait("x")
    assert turns.next(lambda caller: caller != "x") is None


def test_parts_of_a_caller_share_its_turns() -> None:
    """As connections of a tenant: one that sends many items does not hold up the others."""
    turns: Turns[str] = Turns()
    for caller, part, items in (("x", "1", "1234"), ("y", "", "ab"), ("x", "2", "AB")):
        for item in items:
            turns.add(caller, item, part=part)

    assert turns.others_wait("x", "1")
    assert taken(turns) == "1aAb2B34"
    turns.add("x", "2", part="1")
    turns.add("x", "1", part="1", first=True)
    assert not turns.others_wait("x", "1")
    assert turns.others_wait("x", "2")
    assert turns.remove("x", "2")
    assert taken(turns) == "1"
