"""The errors of the store.

StoreError
├── StoreUnusable      the folder cannot be opened: in use, read-only, newer, damaged
├── StoreFailed        the system refused to read or write
│   └── DiskFull       the disk or the user's quota is full
├── StoreFull          a limit on number or bytes is reached
├── UnknownId          no such adapted model, or it is no longer known
│   └── MalformedId    no store gives such an id
├── ExpiredId          its time to live is over
├── DeletedId          it was deleted
├── DamagedModel       its file is missing or was changed
├── TakenId            an adapted model has or had this id
└── BadPageToken       no page of this list gave this token
"""
# ruff: noqa: N818 -- the names state conditions, as in the tree above

from __future__ import annotations


class StoreError(Exception):
    """Base of the store's errors; only messages for operators name paths."""


class StoreUnusable(StoreError):
    """The folder cannot be opened as a store; the message is for operators and names it."""


class StoreFailed(StoreError):
    """The system refused to read or write; everything stored before is unchanged."""


class DiskFull(StoreFailed):
    """The disk has no room for the new content."""


class StoreFull(StoreError):
    """A limit is reached: `limit` and `used`, both in `unit` ("models" or "bytes")."""

    def __init__(self, unit: str, limit: int, used: int, needed: int) -> None:
        super().__init__(f"the store is full: {used} of {limit} {unit} used, {needed} more needed")
        self.unit, self.limit, self.used, self.needed = unit, limit, used, needed


class UnknownId(StoreError):
    """No adapted model has this id."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"there is no adapted model {model_id[:64]!r}")


class MalformedId(UnknownId):
    """No adapted model can have this id."""


class ExpiredId(StoreError):
    """The adapted model expired at `expire_time` (Unix seconds)."""

    def __init__(self, model_id: str, expire_time: float) -> None:
        super().__init__(f"the adapted model {model_id} has expired")
        self.expire_time = expire_time


class DeletedId(StoreError):
    """The adapted model was deleted."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the adapted model {model_id} was deleted")


class DamagedModel(StoreError):
    """The adapted model's file is missing or was changed."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the adapted model {model_id} is damaged in the store; adapt again")


class TakenId(StoreError):
    """The id was used before."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"the id {model_id} is taken")


class BadPageToken(StoreError):
    """The page token is not from this list."""

    def __init__(self) -> None:
        super().__init__("page token: expected one from an earlier page of this list")
