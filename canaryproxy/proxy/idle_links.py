"""The idle connections of an endpoint: the one that was used last is used next."""

from __future__ import annotations

from collections.abc import Iterator

from canaryproxy.proxy.interfaces import UpstreamLink


class IdleLinks:
    """A stack of connections.

    Its top is kept apart: at a quiet endpoint each request takes the only one and gives it back, and a list
    gets its memory anew each time that it is no longer empty.
    """

    __slots__ = ("last", "others")

    def __init__(self) -> None:
        self.last: UpstreamLink | None = None
        """The one that was put here last, unless it was taken since."""
        self.others: list[UpstreamLink] = []
        """All others, the one that was put here last at the end."""

    def __len__(self) -> int:
        return len(self.others) + (self.last is not None)

    def __iter__(self) -> Iterator[UpstreamLink]:
        """Iterate from the one that was put here first to the last one."""
        return iter(self.others if self.last is None else [*self.others, self.last])

    def put(self, link: UpstreamLink) -> None:
        """Add a connection."""
        if self.last is not None:
            self.others.append(self.last)
        self.last = link

    def take(self) -> UpstreamLink | None:
        """Return the one that was put here last, and keep it no longer; ``None`` if there is none."""
        link, self.last = self.last, None
        if link is None and self.others:
            link = self.others.pop()
        return link

    def remove(self, link: UpstreamLink) -> None:
        """Keep a connection no longer, if it is here."""
        if link is self.last:
            self.last = None
        elif link in self.others:
            self.others.remove(link)

    def take_older(self, than: float) -> UpstreamLink | None:
        """Return the one that was put here first, and keep it no longer, if it is idle since before ``than``.

        ``None`` if it is not, or if there is none.
        """
        if self.others:
            return self.others.pop(0) if self.others[0].idle_since < than else None
        if self.last is not None and self.last.idle_since < than:
            return self.take()
        return None
