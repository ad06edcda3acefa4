"""Where a request goes: its sticky key, the cookie that sets one, match rules, the bucket."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.request import ParsedHeaders, Request, RuleCache
from canaryproxy.measure import counters
from canaryproxy.measure.cohorts import CohortRules
from canaryproxy.measure.conditions import MatchRules, RequestView, host_name
from canaryproxy.measure.exposure import NO_COHORTS, Members
from canaryproxy.measure.outcomes import OutcomeRules
from canaryproxy.measure.routing import NOT_SHARED, RouteTable, Routing
from canaryproxy.measure.shared_memory import TableCell
from canaryproxy.proxy.probes import ProbeRules
from canaryproxy.proxy.propagation import Follower
from canaryproxy.proxy.sharing import Sharing
from canaryproxy.proxy.sticky import CookieFinder, CookieJar, KeyReader

_CACHED_PATHS: Final = 32
"""Methods and paths for which the result of the rules is cached beside the headers that it was found for."""
_LONGEST_CACHED: Final = 256
"""Bytes of such a path: thousands of clients with long ones of their own would fill the memory."""

_NO_OUTCOMES: Final[tuple[int, ...]] = ()

_Matched = tuple[int | None, tuple[int, ...], Members]
"""The variant that a rule forces, the outcomes whose rules match, and the cohorts."""


class Router:
    """Routes the requests of one worker by the table that was published last."""

    __slots__ = (
        "_cell",
        "_cohorts",
        "_follower",
        "_has_rules",
        "_jar",
        "_key_is_in_headers",
        "_key_reader",
        "_last_cache",
        "_last_found",
        "_last_method",
        "_last_path",
        "_outcomes",
        "_probes",
        "_proxies",
        "_read",
        "_reads_query",
        "_rules",
        "_sequence",
        "_service_cells",
        "_sharing",
        "_table_version",
        "table",
    )

    def __init__(self, cell: TableCell, service_cells: memoryview[int], sharing: Sharing) -> None:
        """``service_cells`` are ``Counters.service``; ``sharing`` follows the table."""
        self._sharing = sharing
        self._service_cells = service_cells
        self._cell = cell
        self._sequence = cell.sequence
        """One cell: when it differs from ``_table_version``, another table was published."""
        self._read = counters.reader(cell.sequence)
        """Reads it, unless ``None``."""
        self._last_cache: RuleCache | None = None
        """The request before, as often the next one is like it: the cache that it was looked up in, its
        method and path, and what the rules say."""
        self._last_method = self._last_path = b""
        self._last_found: _Matched = (None, _NO_OUTCOMES, NO_COHORTS)
        self._table_version = 0
        self.table = RouteTable()
        """The table in force; all users go to stable until one is published."""
        self._refresh()

    def configure(
        self,
        key_reader: KeyReader,
        jar: CookieJar | None,
        rules: MatchRules,
        outcomes: OutcomeRules,
        cohorts: CohortRules,
        *,
        probes: ProbeRules | None,
        proxies: TrustedProxies,
        key_is_in_headers: bool,
        follower: Follower | None = None,
    ) -> None:
        """Route by these from now on.

        ``jar`` sets the sticky cookie of a client that has none. ``key_is_in_headers``: the same headers
        have the same key, whichever connection they come on. ``probes``: which requests have no user.
        ``follower``: which requests follow the proxy before this one; ``None``: no field says so.
        """
        self._key_reader = key_reader
        self._jar = jar
        self._rules = rules
        self._outcomes = outcomes
        self._probes = probes
        self._follower = follower
        self._proxies = proxies
        self._cohorts = cohorts
        self._has_rules = bool(rules) or bool(outcomes) or bool(cohorts)
        self._last_cache = None
        self._reads_query = rules.reads_query or cohorts.reads_query
        self._key_is_in_headers = key_is_in_headers
        # What was found by the table before, for headers that are remembered, was found by other settings.
        self.table = replace(self.table)

    def publish(self, table: RouteTable) -> None:
        """Route by this table from the next request on."""
        self._cell.publish(table)

    def current(self) -> RouteTable:
        """Return the table in force."""
        if self._sequence[0] != self._table_version:
            self._refresh()
        return self.table

    def route(self, request: Request, peer: Peer) -> tuple[Routing, tuple[int, ...]]:
        """Return where a request goes, and the outcomes whose rules match it (indexes)."""
        sequence = self._sequence[0] if self._read is None else self._read()
        if sequence != self._table_version:
            self._refresh()
        headers = request.headers
        if not self._has_rules:
            routing = headers.routing
            if routing is None or routing.table is not self.table:
                routing = self._by_key(request, peer, NO_COHORTS)
            return routing, _NO_OUTCOMES
        cache, rule_key = headers.rule_cache, request.rule_key
        if cache is None or self._reads_query:
            forced, outcomes, members = self._match(request, peer)
        elif (
            cache is self._last_cache
            and rule_key[1] is self._last_path
            and rule_key[0] is self._last_method
        ):
            forced, outcomes, members = self._last_found
        else:
            known = cache.get(rule_key)
            if known is not None and known[0] is self._rules:  # as of ``_match``, written out
                self._last_cache, self._last_found = cache, known[1]
                self._last_method, self._last_path = rule_key
                forced, outcomes, members = known[1]
            else:
                forced, outcomes, members = self._match(request, peer)
        routing = headers.routing
        if (
            routing is None
            or routing.table is not self.table
            or routing.members is not members  # equal ones are the same object
        ):
            routing = self._by_key(request, peer, members)
        return routing if forced is None else routing.forced_to(forced), outcomes

    def _refresh(self) -> None:
        """Take the table that was published last; while it is being written, the old one holds."""
        found = self._cell.read()
        if found is not None:
            self._table_version, self.table, _ = found
            self._sharing.follow(self.table)

    def _by_key(self, request: Request, peer: Peer, members: Members) -> Routing:
        table, jar, headers = self.table, self._jar, request.headers
        follower = self._follower
        if follower is not None:
            following = follower.route(request, peer, table)
            if following is not None:
                return following
        key = self._key_reader.read(request, peer)
        cookie = b""
        sent = key is not None
        probes = self._probes
        has_no_cookie = jar is not None and not sent
        if (
            probes is not None
            and (has_no_cookie or not self._key_is_in_headers)
            and probes.match(request, peer)
        ):
            self._service_cells[counters.PROBES] += 1
            return table.without_user(NOT_SHARED)
        if jar is not None:
            if key is None:
                if jar.is_withheld(request):
                    self._service_cells[counters.WITHHELD] += 1
                    return table.route(None, NOT_SHARED, members=members)
                key = jar.mint(table)
                cookie = jar.set_cookie(key, secure=_is_secure(headers, peer))
            elif jar.rotates and jar.is_old(headers.cookie):
                cookie = jar.set_cookie(key, secure=_is_secure(headers, peer))
        routing = table.route(key, cookie, sent=sent, members=members)
        if follower is not None:
            if follower.follows:
                routing = routing.without_record()
            if request.fields.claims is not None:  # to be looked at, and counted, with each request
                return routing
        if self._key_is_in_headers and not cookie:
            headers.routing = routing
        return routing

    def _match(self, request: Request, peer: Peer) -> tuple[int | None, tuple[int, ...], Members]:
        """Return the variant that a match rule forces, the outcomes whose rules match, and the cohorts."""
        headers, rules = request.headers, self._rules
        rule_key = request.rule_key
        if self._reads_query:
            rule_key = (rule_key[0], request.target)
        cache = headers.rule_cache
        if (
            cache is not None
            and (known := cache.get(rule_key)) is not None
            and known[0] is rules  # not those of another service, or of before a reload
        ):
            return known[1]
        fields, cohorts = request.fields, self._cohorts
        view = RequestView(
            request.method.decode(),
            request.rule_key[1].decode("latin-1"),
            headers.raw,
            lambda name: _cookie(headers, name),
            request.target.partition(b"?")[2].decode("latin-1"),
            host_name(fields.host),
            lambda: self._proxies.client_at(peer, request.forwarding),
        )
        found = rules.variant_of(view), self._outcomes.watching(view), cohorts.of(view)
        if rules.reads_client or cohorts.reads_client or len(rule_key[1]) > _LONGEST_CACHED:
            return found
        if cache is None:
            headers.rule_cache = cache = {}
        elif len(cache) >= _CACHED_PATHS:
            cache.clear()
        cache[rule_key] = rules, found
        return found


def _is_secure(headers: ParsedHeaders, peer: Peer) -> bool:
    """Tell whether the client speaks https, to us or to a trusted proxy."""
    if peer.proto == b"https":
        return True
    return peer.trusted and (headers.fields.field(b"x-forwarded-proto") or b"").lower() == b"https"


def _cookie(headers: ParsedHeaders, name: str) -> str | None:
    value = _finder(name).find(headers.cookie)
    return None if value is None else value.decode("latin-1")


@lru_cache(maxsize=64)
def _finder(name: str) -> CookieFinder:
    return CookieFinder(name)
