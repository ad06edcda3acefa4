"""The service of a request, against a search through all services."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config import Service
from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.conditions import host_name
from canaryproxy.measure.service_table import UNKNOWN_HOST, UNKNOWN_PATH, ServiceTable


def service(hosts: Sequence[str] = (), paths: Sequence[str] = ()) -> Service:
    given = {"hosts": tuple(hosts), "paths": tuple(paths)}
    return Service.model_validate({name: value for name, value in given.items() if value})


def naive(services: Sequence[Service], host: bytes, path: bytes) -> int:
    """Return what ``ServiceTable.find`` should, by looking at every host and path of every service."""
    name = host_name(host)
    takers = [
        (rank, length, -at)
        for at, one in enumerate(services)
        for pattern in one.hosts or ("",)
        if (rank := rank_of(pattern, name)) is not None
        for prefix in one.paths or ("/",)
        if (length := length_of(prefix, path.decode("latin-1"))) is not None
    ]
    if takers:
        return -max(takers)[2]
    known = any(rank_of(host, name) is not None for one in services for host in one.hosts or ("",))
    return UNKNOWN_PATH if known else UNKNOWN_HOST


def rank_of(pattern: str, name: str) -> tuple[int, int] | None:
    """Return how specific a pattern is that matches a name."""
    if not pattern:
        return (0, 0)
    if pattern.startswith("*."):
        return (1, len(pattern)) if name.endswith(pattern[1:]) else None
    return (2, 0) if name == pattern else None


def length_of(prefix: str, path: str) -> int | None:
    """Return the segments of a prefix that a path has."""
    if prefix == "/":
        return 0
    wanted, found = prefix.split("/"), path.split("/")
    return len(wanted) if found[: len(wanted)] == wanted else None


LABELS = st.sampled_from(["a", "b", "example", "com"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
HOSTS = NAMES | NAMES.map(lambda name: f"*.{name}")
SEGMENTS = st.sampled_from(["a", "b", "cart", "carto", "", "%2F", "a;b"])
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda parts: "/" + "/".join(parts))
SERVICES = st.builds(
    service,
    st.lists(HOSTS, max_size=3, unique=True),
    st.lists(PATHS, max_size=3, unique_by=lambda path: path.rstrip("/")),
)
ASKED = (NAMES | NAMES.map(str.upper) | NAMES.map(lambda name: f"{name}.:8080") | st.just("")).map(
    str.encode
)


def without_doubles(services: Sequence[Service]) -> list[Service]:
    """Return the services whose places no other one before them has: others are refused by ``parse``."""
    taken: set[tuple[str, str]] = set()
    kept = []
    for one in services:
        places = {(host, path) for host in one.hosts or ("",) for path in one.paths or ("/",)}
        if not places & taken:
            taken |= places
            kept.append(one)
    return kept


@given(
    st.lists(SERVICES, max_size=6).map(without_doubles),
    st.lists(st.tuples(ASKED, PATHS.map(str.encode)), max_size=8),
)
def test_the_table_finds_what_a_search_finds(
    services: list[Service], asked: list[tuple[bytes, bytes]]
) -> None:
    table = ServiceTable(services)
    for host, path in (*asked, *asked):
        assert table.find(host, path) == naive(services, host, path)


SHOP = ServiceTable(
    [
        service(["shop.example.com"], ["/cart", "/cart/items/new"]),
        service(["shop.example.com"], ["/search"]),
        service(["*.example.com"]),
        service(["*.api.example.com"], ["/v1"]),
        service([], ["/status"]),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        (b"shop.example.com", b"/cart", 0),
        (b"SHOP.example.com.:8080", b"/cart/items", 0),
        (b"shop.example.com", b"/cart/items/new/x", 0),
        (b"shop.example.com", b"/search/", 1),
        (b"shop.example.com", b"/cartoon", 2),
        (b"shop.example.com", b"/%63art", 2),
        (b"shop.example.com", b"/cart%2Fitems", 2),
        (b"shop.example.com", b"//cart", 2),
        (b"shop.example.com", b"/./cart", 2),
        (b"shop.example.com", b"/cart/../search", 0),
        (b"shop.example.com", b"*", 2),
        (b"shop.example.com", b"/status", 2),
        (b"a.b.example.com", b"/", 2),
        (b"x.api.example.com", b"/v1/a", 3),
        (b"x.api.example.com", b"/v2", 2),
        (b"example.com", b"/", UNKNOWN_PATH),
        (b"example.com", b"/status/x", 4),
        (b"[::1]:80", b"/status", 4),
        (b"", b"/status", 4),
    ],
)
def test_the_most_specific_host_and_the_longest_prefix_have_the_request(
    host: bytes, path: bytes, found: int
) -> None:
    assert SHOP.find(host, path) == found


def test_a_host_without_services_is_unknown() -> None:
    table = ServiceTable(
        [service(["a.example"]), service(["[::1]"]), service(["*.b.example"], ["/x"])]
    )
    assert table.find(b"b.example", b"/x") == UNKNOWN_HOST
    assert table.find(b"", b"/x") == UNKNOWN_HOST
    assert table.find(b"[::1]:8080", b"/") == 1
    assert table.find(b"c.b.example", b"/") == UNKNOWN_PATH
    assert ServiceTable([]).find(b"a", b"/") == UNKNOWN_HOST


def test_a_default_service_has_what_no_other_takes() -> None:
    table = ServiceTable([service(["a.example"], ["/x"]), service()])
    assert [table.find(b"a.example", path) for path in (b"/x", b"/y", b"*")] == [0, 1, 1]
    assert table.find(b"anything at all", b"/x") == 1


def test_hosts_that_have_been_seen_do_not_fill_the_memory() -> None:
    table = ServiceTable([service(["*.a"])])
    for at in range(10_000):
        assert table.find(b"%d.a" % at, b"/") == 0
    assert table.find(b"x" * 8000 + b".a", b"/") == 0
    assert len(table._known) <= 2048
    assert max(map(len, table._known)) <= 128


# What a lookup costs


def opcodes(call: Callable[[], object]) -> int:
    """Return how many instructions of the interpreter a call executes."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def table_of(count: int) -> ServiceTable:
    return ServiceTable(
        [
            *(
                service([f"s{at}.example.com", f"*.s{at}.example.org"], ["/a", f"/b/{at}"])
                for at in range(count)
            ),
            *(service(["one.example.com"], [f"/p{at}"]) for at in range(count)),
        ]
    )  # fmt: skip


@pytest.mark.skipif(COMPILED, reason="counts instructions of the interpreter")
@pytest.mark.parametrize(
    ("host", "path"),
    [
        (b"s0.example.com", b"/a"),
        (b"s0.example.com:80", b"/b/0/x/y/z"),
        (b"x.y.s0.example.org", b"/a"),
        (b"one.example.com", b"/p0"),
        (b"one.example.com", b"/unknown/to/all"),
        (b"unknown.example", b"/a"),
    ],
)
def test_a_lookup_among_a_thousand_services_costs_what_it_costs_with_one(
    host: bytes, path: bytes
) -> None:
    one, thousand = table_of(1), table_of(1000)
    costs = [opcodes(lambda table=table: table.find(host, path)) for table in (one, thousand)]  # type: ignore[misc]
    assert costs[0] == costs[1] > 20
    again = [opcodes(lambda table=table: table.find(host, path)) for table in (one, thousand)]  # type: ignore[misc]
    assert again[0] == again[1] <= costs[0]


@pytest.mark.skipif(COMPILED, reason="counts instructions of the interpreter")
def test_a_lookup_of_what_a_client_makes_long_costs_no_more() -> None:
    table = ServiceTable([service(["*.a.b"], ["/x/y"]), service(["c"])])
    short = opcodes(lambda: table.find(b"x.a.b", b"/x/y/z"))
    long = opcodes(lambda: table.find(b"x." * 4000 + b"a.b", b"/x/y" + b"/z" * 4000))
    assert long <= short
