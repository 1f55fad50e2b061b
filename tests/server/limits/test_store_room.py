from __future__ import annotations

import pytest

from kshot.server.access.limits import UNLIMITED, Limits
from kshot.server.errors import QuotaExceeded, StoreIsFull
from kshot.server.limits.store_room import NewModel, StoreRoom


@pytest.fixture
def room() -> StoreRoom:
    """Room for four models of 100 bytes, of which a tenant has one of 30."""
    return StoreRoom(lambda tenant: (1, 30) if tenant in (None, "ada") else (0, 0), (4, 100))


def test_a_tenant_has_its_own_room(room: StoreRoom) -> None:
    """Its limit comes before the store's, and counts its own models alone."""
    full = room.reserve(NewModel("a", "ada", 1000), Limits(max_models=1))

    assert isinstance(full, QuotaExceeded)
    assert str(full).endswith(
        "limit of 1 models is reached; delete adapted models or let them expire"
    )
    assert room.reserve(NewModel("b", "bob", 10), Limits(max_models=1)) is None
    assert isinstance(room.reserve(NewModel("c", "bob", 10), Limits(max_models=1)), QuotaExceeded)
    assert isinstance(room.reserve(NewModel("d", "ada", 11), Limits(max_bytes=40)), QuotaExceeded)
    assert room.reserve(NewModel("d", "ada", 10), Limits(max_bytes=40)) is None


def test_what_is_being_written_takes_room(room: StoreRoom) -> None:
    assert room.reserve(NewModel("a", "ada", 70), UNLIMITED) is None
    assert "a" in room
    assert isinstance(room.reserve(NewModel("b", "bob", 1), UNLIMITED), StoreIsFull)

    room.release("a")

    assert [room.reserve(NewModel(name, "bob", 1), UNLIMITED) for name in "bcd"] == [None] * 3
    assert isinstance(room.reserve(NewModel("e", "bob", 1), UNLIMITED), StoreIsFull)


def test_a_larger_file_in_the_place_of_another_takes_its_growth(room: StoreRoom) -> None:
    """The number of models stays, also where that is over its limit."""
    few = Limits(max_models=0, max_bytes=40)

    assert room.reserve(NewModel("a", "ada", 10, count=0), few) is None
    assert isinstance(room.reserve(NewModel("b", "ada", 1, count=0), few), QuotaExceeded)
    assert isinstance(room.reserve(NewModel("c", "bob", 61, count=0), UNLIMITED), StoreIsFull)
    assert [room.reserve(NewModel(name, "bob", 1), UNLIMITED) for name in "def"] == [None] * 3
