"""What waits for one webhook: bounded, in order, and a trip is the last to go."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """What can wait."""

    @property
    def urgent(self) -> bool:
        """Never dropped in favour of what is not."""


T = TypeVar("T", bound=Item)


class Backlog(Generic[T]):
    """A queue of at most ``size`` items."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> T | None:
        """Add ``item``; return what had to be dropped for it, which may be ``item`` itself.

        Dropped is the oldest that is not urgent. Of nothing but urgent ones the oldest goes, and only for
        another urgent one.
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
        """Remove all, and return how many."""
        count = len(self._items)
        self._items.clear()
        return count

    def take(self) -> T | None:
        """Remove and return the oldest, if there is one."""
        return self._items.popleft() if self._items else None
