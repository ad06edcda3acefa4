"""The parsers of request heads of one worker: they read a head before its service is known.

Services differ in the sticky cookie that they take out of what they forward. The worker's parser does what
most services want; a request for another service is parsed once more, by that service's. Everything that
parsers cache beside a head is the same for all services, or says itself whose it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from canaryproxy.config import Config
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.propagated import Names
from canaryproxy.http1.request import RequestParser, Tolerated
from canaryproxy.measure.compiled import COMPILED
from canaryproxy.proxy.propagation import names_of
from canaryproxy.proxy.sticky import cookie_stripper

_NONE: Final = ""


@dataclass(frozen=True, slots=True)
class _Settings:
    """The settings that all parsers of a worker have in common."""

    end: bytes
    """The last lines of forwarded heads (``HeadEnds.requests``)."""
    create_trace: bool
    tolerates: bool
    reads: frozenset[bytes]
    """Names (lower case) of fields that the variant, an outcome or a cohort depends on, in any service."""
    remember_cookies: bool
    propagated: Names | None
    """The names of fields that say which version a request gets, of all services."""


class RequestParsers:
    """The parsers of a worker. One that a new configuration does not change keeps what it has cached."""

    __slots__ = ("_made", "_settings", "_tolerate", "common", "propagated")

    common: RequestHeadCache
    """The one that reads all heads first."""

    def __init__(self, tolerate: Callable[[Tolerated], None]) -> None:
        """``tolerate`` is called with each request that ``strict: enforce`` would refuse."""
        self._tolerate = tolerate
        self._settings: _Settings | None = None
        self.propagated: Names | None = None
        """The names of fields that say which version a request gets, of all services."""
        self._made: dict[str, RequestHeadCache] = {}
        """By the name of the cookie that they take out."""

    def configure(self, config: Config, services: Sequence[Config], end: bytes) -> None:
        """Parse for these services of a configuration; ``end``: the last lines of forwarded heads."""
        reads = frozenset(name for one in services for name in _headers_read(one))
        signed = any(one.split.sticky.sign is not None for one in services)
        settings = _Settings(
            end=end,
            create_trace=config.trace.create,
            tolerates=config.strict == "report",
            reads=reads,
            # Compiled, reading a plain cookie costs no more than finding its block among thousands.
            remember_cookies=b"cookie" in reads or signed or not COMPILED,
            propagated=names_of(services),
        )
        self.propagated = settings.propagated
        stripped = Counter(map(_stripped, services))
        wanted = [name for name, _ in stripped.most_common()] or [_NONE]
        before = self._made if settings == self._settings else {}
        self._settings = settings
        self._made = {
            name: before.get(name) or self._make(settings, name, first=at == 0)
            for at, name in enumerate(wanted)
        }
        self.common = self._made[wanted[0]]

    def of(self, service: Config) -> RequestHeadCache:
        """Return the one for the requests of a service."""
        return self._made[_stripped(service)]

    def _make(self, settings: _Settings, name: str, *, first: bool) -> RequestHeadCache:
        # A request is counted as tolerated when it is read first.
        tolerate = (self._tolerate if first else _ignore) if settings.tolerates else None
        parser = RequestParser(
            settings.end,
            cookie_stripper(name) if name else None,
            create_trace=settings.create_trace,
            tolerate=tolerate,
            propagated=settings.propagated,
        )
        return RequestHeadCache(
            parser,
            reads=settings.reads,
            remember_cookies=settings.remember_cookies,
        )


def _ignore(reason: Tolerated) -> None:
    """Do not count a request again."""


def _stripped(config: Config) -> str:
    """Return the name of the cookie that is not forwarded, empty for none."""
    sticky = config.split.sticky
    return _NONE if sticky.forward else sticky.cookie or _NONE


def _headers_read(config: Config) -> Iterator[bytes]:
    """Yield the names of the request headers that match rules, cohorts, outcomes and the sticky key read."""
    parts = config.split.conditions
    headers = [part.header for part in parts]
    headers += [outcome.match.header for outcome in config.judge.outcomes.values()]
    names = [config.split.sticky.header, *(match.name for match in headers if match is not None)]
    if any(part.cookie is not None for part in parts):
        names.append("cookie")
    return (name.lower().encode("latin-1") for name in names if name is not None)
