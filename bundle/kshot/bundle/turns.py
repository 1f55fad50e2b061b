"""Waiting items of callers who take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Callers without a waiting item whose last turn is remembered.
_MOST_REMEMBERED = 1024


class Turns(Generic[Item]):
    """Items by caller: whose last turn is longest ago comes next, first come first served within.

    For one thread, or behind a lock.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Item]] = {}
        self._last: OrderedDict[str, int] = OrderedDict()  # turns, oldest first
        self._turn = 0

    def __bool__(self) -> bool:
        """Tell whether an item waits."""
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Item]:
        """Go through the waiting items, those of a caller in order."""
        return (item for items in self._waiting.values() for item in items)

    def add(self, caller: str, item: Item, *, first: bool = False) -> None:
        """Queue an item behind, or before, those of its caller."""
        items = self._waiting.setdefault(caller, deque())
        if first:
            items.appendleft(item)
        else:
            items.append(item)

    def next(self, may: Callable[[str], bool] = lambda _: True) -> str | None:
        """Return the caller whose turn it is among those who may take one, None without any."""
        callers = (caller for caller in self._waiting if may(caller))
        return min(callers, key=lambda caller: self._last.get(caller, 0), default=None)

    def others_wait(self, caller: str) -> bool:
        """Tell whether an item of another caller waits."""
        return len(self._waiting) > (caller in self._waiting)

    def first(self, caller: str) -> Item:
        """Return the first item of a caller who has one."""
        return self._waiting[caller][0]

    def drop(self, caller: str) -> Item:
        """Remove and return the first item of a caller, who keeps the turn."""
        items = self._waiting[caller]
        item = items.popleft()
        if not items:
            del self._waiting[caller]
        return item

    def take(self, caller: str) -> Item:
        """Remove and return the first item of a caller, whose turn this was."""
        self.served(caller)
        return self.drop(caller)

    def remove(self, caller: str, item: Item) -> bool:
        """Remove an item of a caller, whose turn this was; tell whether it was there."""
        items = self._waiting.get(caller)
        if items is None or item not in items:
            return False
        self.served(caller)
        items.remove(item)
        if not items:
            del self._waiting[caller]
        return True

    def served(self, caller: str) -> None:
        """Note that a caller had a turn."""
        self._turn += 1
        self._last[caller] = self._turn
        self._last.move_to_end(caller)
        if len(self._last) > _MOST_REMEMBERED:
            self._last.popitem(last=False)

    def clear(self) -> list[Item]:
        """Remove and return all items."""
        items = list(self)
        self._waiting.clear()
        return items
