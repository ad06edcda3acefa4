"""Route templates: the groups of requests that the judge compares one by one.

A group is a method and the first three segments of a path, with ``*`` for the segments that are likely to
differ between requests: ``GET /api/users/*``. So services need not list their routes.
"""

from __future__ import annotations

import re
from typing import Final

from canaryproxy.measure.records import LONGEST_NAME, NameRing, template_of

_READS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_SEGMENTS: Final = 3
_VARIABLE: Final = re.compile(
    rb"(?<=/)(?:[0-9]+|[0-9A-Fa-f]{8,}"
    rb"|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
    rb"|[^/]{33,}|[^/]*[^/A-Za-z0-9._~-][^/]*)(?=/|\Z)"
)
"""Numbers, hex, UUIDs, what is longer than 32 bytes, and what has others than unreserved characters
(RFC 3986 §2.3)."""

_CACHED: Final = 1024
"""Methods and paths whose template is cached, and names that are not announced again."""
_LONGEST_CACHED: Final = 256
"""Bytes of such a path."""


def route_name(method: bytes, path: bytes) -> bytes:
    """Return the name of a request's route, at most ``LONGEST_NAME`` bytes; ``path`` is without a query.

    GET stands for HEAD and OPTIONS too: they ask the same of a service.
    """
    parts = path.split(b"/", _SEGMENTS + 1)
    if len(parts) > _SEGMENTS + 1:
        path = b"/".join(parts[: _SEGMENTS + 1])
    method = b"GET" if method in _READS else method
    return (method + b" " + _VARIABLE.sub(b"*", path))[:LONGEST_NAME]


class RouteNames:
    """The templates of one worker's requests; announces the name of each in ``ring``."""

    __slots__ = ("_announced", "_ring", "_templates", "last_method", "last_path", "last_template")

    def __init__(self, ring: NameRing) -> None:
        self._ring = ring
        self._templates: dict[tuple[bytes, bytes], int] = {}
        """Those that ``find`` has returned lately, by method and path."""
        self.last_method = self.last_path = b""
        """What ``find`` was asked for last, and what it returned: most often the next request is like it."""
        self.last_template = 0
        self._announced: set[int] = set()

    def find(self, rule_key: tuple[bytes, bytes]) -> int:
        """Return the template of a request by its method and its path without a query."""
        template = self._templates.get(rule_key) or self._learn(rule_key)
        self.last_method, self.last_path = rule_key
        self.last_template = template
        return template

    def _learn(self, rule_key: tuple[bytes, bytes]) -> int:
        if len(self._templates) >= _CACHED or len(self._announced) >= _CACHED:
            # Names are announced again then, which a control plane that has begun later may need.
            self._templates.clear()
            self._announced.clear()
        method, path = rule_key
        name = route_name(method, path)
        template = template_of(name)
        if template not in self._announced:
            self._announced.add(template)
            self._ring.write(template, name)
        if len(path) <= _LONGEST_CACHED:
            self._templates[rule_key] = template
        return template
