"""Limits on what shared caches before the proxy may keep at the moment (``split.cacheable``).

A response that a cache keeps goes to users of both variants. So with ``auto`` it may keep those of one
variant only while that variant serves all users. Parsers of responses do the work, and they change with the
route table, before the first request is routed by it.
"""

from __future__ import annotations

from canaryproxy.config import Circuit, Split
from canaryproxy.http1.head_cache import ResponseHeadCache
from canaryproxy.http1.response import AS_IT_IS, NEVER, UNLESS_IMMUTABLE, VARYING, ResponseParser
from canaryproxy.measure.routing import CANARY, STABLE, RouteTable

_COOKIE = b"Cookie"


class Sharing:
    """The parsers of the responses of stable and of the canary."""

    __slots__ = (
        "_divides",
        "_dropped",
        "_has_canary",
        "_in_force",
        "_mode",
        "_names",
        "_streams",
        "parsers",
    )

    def __init__(self) -> None:
        self.parsers = (ResponseHeadCache(ResponseParser()), ResponseHeadCache(ResponseParser()))
        self._mode = "auto"
        self._names: tuple[bytes, ...] = ()
        self._dropped = b""
        self._streams: tuple[bytes, ...] = ()
        self._divides = self._has_canary = False
        self._in_force = (AS_IT_IS, AS_IT_IS)

    def configure(
        self, split: Split, circuit: Circuit, *, has_canary: bool, table: RouteTable
    ) -> None:
        """Work by this configuration from now on."""
        self._mode = split.cacheable
        self._names = _varies_by(split)
        self._dropped = (split.variant_header or "").encode("latin-1")
        self._streams = tuple(one.encode() for one in circuit.streams)
        forced = [part for rule in split.rules for part in rule.parts()]
        self._divides = split.follow is not None or any(
            one.header or one.cookie or one.network for one in forced
        )
        self._has_canary = has_canary
        self._in_force = (-1, -1)
        self.follow(table)

    def follow(self, table: RouteTable) -> None:
        """Work by this table from now on."""
        wanted = (self._policy(STABLE, table), self._policy(CANARY, table))
        if wanted == self._in_force:
            return
        self._in_force = wanted
        for parser, policy in zip(self.parsers, wanted, strict=True):
            parser.replace_parser(ResponseParser(self._dropped, policy, self._names, self._streams))

    def _policy(self, variant: int, table: RouteTable) -> int:
        if self._mode == "vary":
            return VARYING
        if self._mode == "private":
            return NEVER
        if not self._has_canary or (table.everyone == variant and not self._divides):
            return AS_IT_IS
        return UNLESS_IMMUTABLE


def _varies_by(split: Split) -> tuple[bytes, ...]:
    """Return the request headers that a user's variant depends on."""
    names = [split.sticky.header, *(one.header.name for one in split.conditions if one.header)]
    if split.follow is not None:
        names += [split.follow.header, *(("baggage",) if split.follow.baggage else ())]
    found = {name.lower(): name.encode("latin-1") for name in names if name is not None}
    if split.sticky.cookie is not None or any(one.cookie for one in split.conditions):
        found["cookie"] = _COOKIE
    return tuple(found.values())
