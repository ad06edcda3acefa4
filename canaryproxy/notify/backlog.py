"""The backlog of one webhook: bounded, in order, and urgent messages are dropped last."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """An entry of a backlog."""

    @property
    def urgent(self) -> bool:
        """Never dropped in favour of an item that is not urgent."""


T = TypeVar("T", bound=Item)


class Backlog(Generic[T]):
    """A queue of at most ``size`` items."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> T | None:
        """Add ``item``; return the item that was dropped for it, if the backlog was full.

        That is the oldest item that is not urgent. If all are urgent, a new urgent item replaces the oldest,
        and any other new item is dropped itself.
        """
        dropped = None
        if len(self._items) >= self._size:
            dropped = next((old for old in self._items if not old.urgent), None)
            if dropped is None and not item.urgent:
                return item
            if dropped is None:
                dropped = self._items[0]
            self._items.remove(dropped)
        self._items.append(item)
        return dropped

    def clear(self) -> int:
        """Remove all items and return their number."""
        count = len(self._items)
        self._items.clear()
        return count

    def take(self) -> T | None:
        """Remove and return the oldest item, or return ``None``."""
        return self._items.popleft() if self._items else None
