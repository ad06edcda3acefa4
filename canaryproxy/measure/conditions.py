"""Conditions on requests, compiled: those of match rules and of outcomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final
from urllib.parse import unquote_plus

from canaryproxy.config import Condition, HeaderMatch, MatchRule, PathMatch
from canaryproxy.config.patterns import searcher
from canaryproxy.measure.routing import VARIANTS, Headers

Networks = Sequence[IPv4Network | IPv6Network]

_WILDCARD: Final = "*"
_HAS_PORT: Final = re.compile(rb":[0-9]*\Z")


@dataclass(frozen=True, slots=True)
class RequestView:
    """The parts of a request that conditions read."""

    method: str
    path: str
    """Path of the target as received, without the query."""
    headers: Headers
    cookie: Callable[[str], str | None]
    """Looks a cookie up by name."""
    query: str = ""
    """The query of the target as received, without its question mark."""
    host: str = ""
    """The host that is asked for, in small letters and without its port."""
    client: Callable[[], str] = str
    """Finds the client's address, empty if it has none."""


Test = Callable[[RequestView], bool]


class MatchRules:
    """The compiled ``split.match`` list: the first rule that matches forces its variant.

    ``others`` are the names of the versions beside the canary, which follow ``VARIANTS`` as indexes.
    """

    __slots__ = ("_rules", "reads_client", "reads_query")

    def __init__(self, rules: Sequence[MatchRule], others: Sequence[str] = ()) -> None:
        names = (*VARIANTS, *others)
        self._rules = tuple((names.index(rule.variant), condition_of(rule)) for rule in rules)
        parts = [part for rule in rules for part in rule.parts()]
        self.reads_query = any(part.query is not None for part in parts)
        """Whether requests that differ only in their query may differ in what rules say."""
        self.reads_client = any(part.network is not None for part in parts)
        """Likewise for their clients' addresses."""

    def __bool__(self) -> bool:
        return bool(self._rules)

    def variant_of(self, request: RequestView) -> int | None:
        """Return the variant that the first matching rule forces, or ``None``."""
        for variant, holds in self._rules:
            if holds(request):
                return variant
        return None


def condition_of(condition: Condition) -> Test:
    """Compile a condition."""
    tests = list(
        conditions_of(condition.method, condition.path, condition.header, condition.cookie)
    )
    if condition.host is not None:
        tests.append(_host_test(condition.host))
    if condition.query is not None:
        name, query_test = _as_received(condition.query.name), text_test(condition.query)
        tests.append(lambda request: _any_holds(_parameters(request.query, name), query_test))
    if condition.network is not None:
        networks = tuple(condition.network)
        tests.append(lambda request: is_within(request.client(), networks))
    tests += [condition_of(one) for one in condition.all_ or ()]
    if condition.any_ is not None:
        any_of = tuple(condition_of(one) for one in condition.any_)
        tests.append(lambda request: any(test(request) for test in any_of))
    if condition.not_ is not None:
        holds = condition_of(condition.not_)
        tests.append(lambda request: not holds(request))
    return tests[0] if len(tests) == 1 else lambda request: all(test(request) for test in tests)


def conditions_of(
    method: Sequence[str] | None,
    path: PathMatch | None,
    header: HeaderMatch | None,
    cookie: HeaderMatch | None = None,
) -> tuple[Test, ...]:
    """Compile the conditions that outcomes have, too; all of them must hold."""
    tests: list[Test] = []
    if method is not None:
        methods = frozenset(method)
        tests.append(lambda request: request.method in methods)
    if path is not None:
        path_test = text_test(path)
        tests.append(lambda request: path_test(request.path))
    if header is not None:
        name, header_test = header.name.lower().encode("latin-1"), text_test(header)
        tests.append(lambda request: _any_holds(_values(request.headers, name), header_test))
    if cookie is not None:
        cookie_name, cookie_test = cookie.name, text_test(cookie)
        tests.append(lambda request: cookie_test(request.cookie(cookie_name)))
    return tuple(tests)


def host_name(host: bytes) -> str:
    """Return the name in a Host field: in small letters, without its port and the dot of the root."""
    name = host.rpartition(b":")[0] if _HAS_PORT.search(host) else host
    return name.decode("latin-1").lower().rstrip(".")


def is_within(address: str, networks: Networks) -> bool:
    """Tell whether an address, which may be empty, is in one of the networks."""
    if not address:
        return False
    ip = ip_address(address)
    return any(ip in network for network in networks)


def _host_test(hosts: Iterable[str]) -> Test:
    """Return the test of exact names and of ``*.name``, which stands for every name below that one."""
    names = [host.lower() for host in hosts]
    exact = frozenset(name for name in names if not name.startswith(_WILDCARD))
    below = tuple(name.removeprefix(_WILDCARD) for name in names if name.startswith(_WILDCARD))
    return lambda request: request.host in exact or request.host.endswith(below)


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for field, value in headers if field.lower() == name]


def _parameters(query: str, name: str) -> list[str]:
    """Return the values of a parameter, decoded as forms are; bytes beyond ASCII as headers have them."""
    found = (pair.partition("=") for pair in query.split("&"))
    return [
        unquote_plus(value, "latin-1")
        for key, _, value in found
        if unquote_plus(key, "latin-1") == name
    ]


def _any_holds(values: Sequence[str], test: Callable[[str | None], bool]) -> bool:
    return any(map(test, values)) if values else test(None)


def text_test(match: HeaderMatch | PathMatch) -> Callable[[str | None], bool]:
    """Return the test of one text; it is given ``None`` for an absent header, cookie or parameter."""
    present = getattr(match, "present", None)
    if present is not None:
        return lambda text: (text is not None) == present
    if match.equals is not None:
        wanted = _as_received(match.equals)
        return lambda text: text == wanted
    if match.prefix is not None:
        prefix = _as_received(match.prefix)
        return lambda text: text is not None and text.startswith(prefix)
    found = searcher(match.regex or "")
    return lambda text: text is not None and found(text.encode("latin-1"))


def _as_received(text: str) -> str:
    """Return a text of the configuration as bytes of UTF-8 are read: as Latin-1."""
    return text.encode().decode("latin-1")
