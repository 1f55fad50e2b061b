"""Waiting items of callers who take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Callers without a waiting item whose last turn is remembered.
_MOST_REMEMBERED = 1024


class _Line(Generic[Item]):
    """The items of a caller, whose parts take turns: first come, first served within a part."""

    def __init__(self) -> None:
        self._parts: dict[str, deque[Item]] = {}  # the next one first

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._parts.values() for item in items)

    def add(self, part: str, item: Item, *, first: bool) -> None:
        items = self._parts.setdefault(part, deque())
        if first:
            items.appendleft(item)
        else:
            items.append(item)

    def first(self) -> Item:
        return next(iter(self._parts.values()))[0]

    def drop(self) -> Item:
        """Remove and return the first item; the other parts come before its part's next one."""
        part = next(iter(self._parts))
        items = self._parts.pop(part)
        item = items.popleft()
        if items:
            self._parts[part] = items
        return item

    def remove(self, item: Item) -> bool:
        for part, items in self._parts.items():
            if item in items:
                items.remove(item)
                if not items:
                    del self._parts[part]
                return True
        return False

    def others_wait(self, part: str) -> bool:
        return len(self._parts) > (part in self._parts)


class Turns(Generic[Item]):
    """Items by caller: whose last turn is longest ago comes next.

    A caller may have parts, such as connections, which take its turns in turn; within one it is
    first come, first served. For one thread, or behind a lock.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Line[Item]] = {}
        self._last: OrderedDict[str, int] = OrderedDict()  # turns, oldest first
        self._turn = 0

    def __bool__(self) -> bool:
        """Tell whether an item waits."""
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Item]:
        """Go through the waiting items, those of a part of a caller in order."""
        return (item for line in self._waiting.values() for item in line)

    def add(self, caller: str, item: Item, *, part: str = "", first: bool = False) -> None:
        """Queue an item behind, or before, those of its part."""
        self._waiting.setdefault(caller, _Line()).add(part, item, first=first)

    def next(self, may: Callable[[str], bool] = lambda _: True) -> str | None:
        """Return the caller whose turn it is among those who may take one, None without any."""
        callers = (caller for caller in self._waiting if may(caller))
        return min(callers, key=lambda caller: self._last.get(caller, 0), default=None)

    def others_wait(self, caller: str, part: str = "") -> bool:
        """Tell whether an item of another caller waits, or of another part of this one."""
        line = self._waiting.get(caller)
        return len(self._waiting) > (line is not None) or (
            line is not None and line.others_wait(part)
        )

    def first(self, caller: str) -> Item:
        """Return the first item of a caller who has one."""
        return self._waiting[caller].first()

    def drop(self, caller: str) -> Item:
        """Remove and return the first item of a caller, who keeps the turn."""
        line = self._waiting[caller]
        item = line.drop()
        if not line:
            del self._waiting[caller]
        return item

    def take(self, caller: str) -> Item:
        """Remove and return the first item of a caller, whose turn this was."""
        self.served(caller)
        return self.drop(caller)

    def remove(self, caller: str, item: Item) -> bool:
        """Remove an item of a caller, whose turn this was; tell whether it was there."""
        line = self._waiting.get(caller)
        if line is None or not line.remove(item):
            return False
        self.served(caller)
        if not line:
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
