"""The errors of the store.

StoreError
├── StoreUnusable      the folder cannot be a store: in use, read-only, newer, damaged (operators)
├── StoreFailed        the system refused to read or write
│   └── DiskFull       for want of room on the disk, or of the user's share of it
├── StoreFull          a cap on number or bytes is reached
├── UnknownId          no such adapted model, or not any more known
│   └── MalformedId    the id is none that a store would give
├── ExpiredId          it was there until its expiry
├── DeletedId          it was there until it was deleted
├── DamagedModel       it is known, but its file is lost
├── TakenId            an adapted model of this id is or was there
└── BadPageToken       a token that no page of this list gave
"""
# ruff: noqa: N818 -- each name says what is so, as in the tree above

from __future__ import annotations


class StoreError(Exception):
    """Anything that the store refuses; the sentence names no path unless it is for operators."""


class StoreUnusable(StoreError):
    """The folder cannot be opened as a store; the sentence names it and says why."""


class StoreFailed(StoreError):
    """The system refused to read or write; what was kept before stays as it was."""


class DiskFull(StoreFailed):
    """The disk has no room for what was to be written."""


class StoreFull(StoreError):
    """A cap is reached: `limit` and `used`, both in `unit` ("models" or "bytes")."""

    def __init__(self, unit: str, limit: int, used: int, needed: int) -> None:
        super().__init__(f"the store is full: {used} of {limit} {unit} used, {needed} more wanted")
        self.unit, self.limit, self.used, self.needed = unit, limit, used, needed


class UnknownId(StoreError):
    """No adapted model has this id."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"there is no adapted model {model_id[:64]!r}")


class MalformedId(UnknownId):
    """No adapted model can have this id."""


class ExpiredId(StoreError):
    """The adapted model was kept until `expire_time` (Unix seconds)."""

    def __init__(self, model_id: str, expire_time: float) -> None:
        super().__init__(f"the adapted model {model_id} has expired")
        self.expire_time = expire_time


class DeletedId(StoreError):
    """The adapted model was deleted."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the adapted model {model_id} was deleted")


class DamagedModel(StoreError):
    """The adapted model's file is missing or is not what was written."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the adapted model {model_id} is damaged in the store; adapt again")


class TakenId(StoreError):
    """An id can be used once."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the id {model_id} is taken")


class BadPageToken(StoreError):
    """The page token was not given for this list."""

    def __init__(self) -> None:
        super().__init__("the page token is not one that a page of this list has given")
