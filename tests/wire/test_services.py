"""Several services behind one proxy: each request gets to its own, and nothing of one reaches another."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from canaryproxy import config
from canaryproxy.config.addresses import TcpAddress
from canaryproxy.http1.forwarding import Peer
from canaryproxy.measure import counters
from canaryproxy.measure.counters import FINISHED, PROBES, REFUSED, ROUTED
from canaryproxy.measure.routing import CANARY, STABLE, RouteTable
from canaryproxy.proxy.dispatch import find_service
from canaryproxy.proxy.listener import listen
from tests.datapaths import Services
from tests.ports import free_port

from .h2client import GET as GET_2
from .h2client import H2Client
from .harness import Client, Link, Proxy, Upstream, always, until


def get(host: str, path: str = "/", more: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def says(text: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


@dataclass
class World:
    """A proxy and an upstream for each variant of its services, which answers with its name."""

    running: Proxy
    services: Services
    upstreams: Mapping[str, Upstream]
    text: str

    async def ask(self, client: Client, request: bytes) -> bytes:
        """Return the response to a request on a connection."""
        at = len(client.got)
        await client.send(request)
        await until_whole(client, at)
        return client.got[at:]

    def weigh(self, name: str, weight: float) -> None:
        """Publish another weight for a service."""
        path = self.services[name]
        path.publish(replace(path.context.router.current(), weight=weight))

    def reconfigure(self, old: str, new: str) -> None:
        """Reload the configuration with another text in it."""
        assert old in self.text
        self.text = self.text.replace(old, new)
        self.services.reconfigure(config.parse(self.text, file="services.yaml"))


async def until_whole(client: Client, at: int) -> None:
    """Read until a response with a Content-Length is complete."""
    while not (found := re.search(rb"Content-Length: (\d+)", client.got[at:])):
        await client.read()
    while b"\r\n\r\n" not in client.got[at:]:
        await client.read()
    end = client.got.index(b"\r\n\r\n", at) + 4 + int(found[1])
    while len(client.got) < end:
        await client.read()


@asynccontextmanager
async def world(text: str, answers: Mapping[str, object] | None = None) -> AsyncIterator[World]:
    """Run a proxy by a configuration in which ``@name`` stands for an endpoint that answers ``name``."""
    async with AsyncExitStack() as stack:
        upstreams: dict[str, Upstream] = {}
        for name in sorted(set(re.findall(r"@([a-z0-9-]+)", text)), key=len, reverse=True):
            answer = (answers or {}).get(name, always(says(name)))
            upstreams[name] = await stack.enter_async_context(Upstream(answer).serving())  # type: ignore[arg-type]
            url = f"http://127.0.0.1:{upstreams[name].port}"
            text = text.replace(f"@{name}", f'{{endpoints: ["{url}"]}}')
        made = config.parse(text, file="services.yaml")
        services = Services(made)
        sock = listen(TcpAddress("127.0.0.1", free_port()))
        await services.datapath.serve([sock])
        first = next(iter(services.datapath.services.values()))
        running = Proxy(services.datapath, first, sock.getsockname()[1], first.service.cells)
        try:
            yield World(running, services, upstreams, text)
        finally:
            running.close_clients()
            await services.datapath.drain(0.2)


SHOP = """
services:
  cart: {hosts: [shop.example.com], paths: [/cart], variants: {stable: @cart}}
  shop: {hosts: [shop.example.com], variants: {stable: @shop}}
  api: {hosts: ["*.api.example.com"], paths: [/v1], variants: {stable: @api}}
"""
ELSE = "  rest: {variants: {stable: @rest}}\n"


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("shop.example.com", "/", "shop"),
        ("shop.example.com", "/cart", "cart"),
        ("shop.example.com", "/cart/1?x=/", "cart"),
        ("shop.example.com", "/cartoon", "shop"),
        ("SHOP.example.com:8080", "/cart", "cart"),
        ("shop.example.com", "/%63art", "shop"),
        ("shop.example.com", "/x/../cart", "shop"),
        ("shop.example.com", "/cart/../admin", "cart"),
        ("eu.api.example.com", "/v1/users", "api"),
        ("a.b.api.example.com", "/v1", "api"),
        ("eu.api.example.com", "/v2", "rest"),
        ("other.example.com", "/", "rest"),
    ],
)
async def test_a_request_gets_to_the_service_of_its_host_and_path(
    host: str, path: str, name: str
) -> None:
    async with world(SHOP + ELSE) as shop:
        client = await shop.running.connect()
        for _ in range(3):  # the third comes from the caches of heads
            assert (await shop.ask(client, get(host, path))).endswith(f"\r\n\r\n{name}".encode())
        counted = {
            one: path.context.tallies for one, path in shop.services.datapath.services.items()
        }
        assert [one for one, (stable, _) in counted.items() if stable.values[FINISHED]] == [name]
        assert shop.upstreams[name].got.count(b"\r\nHost: " + host.encode()) == 3


async def test_the_target_names_the_service_where_it_is_absolute() -> None:
    async with world(SHOP) as shop:
        client = await shop.running.connect()
        got = await shop.ask(client, get("eu.api.example.com", "http://shop.example.com/cart"))
        assert got.endswith(b"cart")


@pytest.mark.parametrize(
    ("host", "path", "status", "cause"),
    [
        ("nobody.example.com", "/", 421, b"no service here has this host"),
        ("eu.api.example.com", "/v2", 404, b"no service of this host has this path"),
    ],
)
async def test_rfc9110_15_5_20_a_request_for_no_service_is_refused_and_its_connection_goes_on(
    host: str, path: str, status: int, cause: bytes
) -> None:
    async with world(SHOP) as shop:
        client = await shop.running.connect()
        refused = await shop.ask(client, get(host, path))
        assert refused.startswith(b"HTTP/1.1 %d " % status)
        assert cause in refused
        assert b"Connection: close" not in refused
        assert (await shop.ask(client, get("shop.example.com"))).endswith(b"shop")
        old = get(host, path, "Connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
        assert b"\r\nConnection: keep-alive\r\n" in await shop.ask(client, old)
        assert (await shop.ask(client, get("shop.example.com"))).endswith(b"shop")
        at = len(client.got)
        await client.send(get(host, path, method="HEAD"))
        await client.take_head()
        assert client.got[at:].endswith(b"\r\n\r\n")
        assert (await shop.ask(client, get("shop.example.com"))).endswith(b"shop")
        assert shop.running.context.proxy_tally.values[REFUSED + status] == 3
        assert shop.running.context.in_flight == 0


@pytest.mark.parametrize(
    ("more", "body"),
    [
        ("Content-Length: 5\r\n", b"hello"),
        ("Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        ("Connection: close\r\n", b""),
        ("Content-Length: 5\r\nExpect: 100-continue\r\n", b""),
    ],
)
async def test_a_refused_request_with_a_body_ends_its_connection(more: str, body: bytes) -> None:
    async with world(SHOP) as shop:
        got = await shop.running.ask(get("nobody.example.com", "/", more, "POST") + body)
        assert got.startswith(b"HTTP/1.1 421 ")
        assert b"\r\nConnection: close\r\n" in got
        assert got.count(b"HTTP/1.1") == 1


async def test_pipelined_requests_get_to_their_services_in_order() -> None:
    async with world(SHOP) as shop:
        got = await shop.running.ask(
            get("shop.example.com", "/cart")
            + get("nobody.example.com")
            + get("eu.api.example.com", "/v1")
            + get("eu.api.example.com", "/v2")
            + get("shop.example.com", more="Connection: close\r\n")
        )
        assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"421", b"200", b"404", b"200"]
        assert re.findall(rb"\r\n\r\n(cart|api|shop)", got) == [b"cart", b"api", b"shop"]


async def test_streams_of_one_http_2_connection_get_to_their_services() -> None:
    def to(host: bytes, path: bytes) -> list[tuple[bytes, bytes]]:
        fields = {b":authority": host, b":path": path}
        return [(name, fields.get(name, value)) for name, value in GET_2]

    async with world(SHOP) as shop:
        client = await H2Client.to(shop.running)
        asked = [
            (b"shop.example.com", b"/cart", 200, b"cart"),
            (b"nobody.example.com", b"/", 421, b""),
            (b"shop.example.com", b"/", 200, b"shop"),
            (b"eu.api.example.com", b"/v1", 200, b"api"),
            (b"eu.api.example.com", b"/v2", 404, b""),
        ]
        for _ in range(3):
            numbers = [await client.ask(to(host, path)) for host, path, _, _ in asked]
            for number, (_, _, status, body) in zip(numbers, asked, strict=True):
                reply = await client.reply(number)
                assert reply.status == status
                assert reply.body == body or status != 200
        assert client.goaway is None
        assert shop.services["cart"].context.tallies[STABLE].values[counters.HTTP2] == 3


# What is cached beside a head is never another service's

ONE_HOST = """
services:
  a:
    paths: [/a]
    variants: {stable: @a1, canary: @a2}
    split: {sticky: {header: x-user}, match: [{header: {name: x-beta, equals: "1"}, variant: canary}]}
    judge: {outcomes: {seen: {match: {header: {name: x-beta, equals: "1"}}, when: {status: 2xx}}}}
  b:
    paths: [/b]
    variants: {stable: @b1, canary: @b2}
    split: {sticky: {header: x-user}}
"""


async def test_rules_of_one_service_do_not_hold_for_another_on_the_same_host() -> None:
    async with world(ONE_HOST) as both:
        client = await both.running.connect()
        for _ in range(3):
            for path, name in (("/a", b"a2"), ("/b", b"b1"), ("/a/x", b"a2"), ("/b/x", b"b1")):
                got = await both.ask(client, get("h", path, "X-Beta: 1\r\nX-User: 7\r\n"))
                assert got.endswith(name)
        assert both.services["a"].context.tallies[CANARY].values[counters.FORCED] == 6
        assert both.services["b"].context.tallies[STABLE].values[counters.FORCED] == 0


async def test_the_variant_of_a_user_in_one_service_is_not_that_in_another() -> None:
    async with world(ONE_HOST) as both:
        both.weigh("a", 100.0)
        client = await both.running.connect()
        for _ in range(3):
            for path, name in (("/a", b"a2"), ("/b", b"b1")):
                assert (await both.ask(client, get("h", path, "X-User: 7\r\n"))).endswith(name)
        both.weigh("b", 100.0)
        both.weigh("a", 0.0)
        for path, name in (("/a", b"a1"), ("/b", b"b2"), ("/a", b"a1")):
            assert (await both.ask(client, get("h", path, "X-User: 7\r\n"))).endswith(name)


async def test_a_table_of_one_service_leaves_the_others_their_own() -> None:
    async with world(ONE_HOST) as both:
        table = both.services["b"].context.router.current()
        both.services["a"].publish(RouteTable(weight=50.0, circuit_open=True, salt=b"x"))
        client = await both.running.connect()
        for path in ("/a", "/b"):
            await both.ask(client, get("h", path))
        assert both.services["a"].context.router.table.circuit_open
        assert both.services["b"].context.router.table is table


async def test_results_of_rules_do_not_outlast_a_reload() -> None:
    async with world(ONE_HOST) as both:
        client = await both.running.connect()
        request = get("h", "/a", "X-Beta: 1\r\n")
        for _ in range(2):
            assert (await both.ask(client, request)).endswith(b"a2")
        both.reconfigure(
            'match: [{header: {name: x-beta, equals: "1"}',
            'match: [{header: {name: x-no, equals: "1"}',
        )
        assert (await both.ask(client, request)).endswith(b"a1")
        both.reconfigure("paths: [/a]", "paths: [/c]")
        both.reconfigure("paths: [/b]", "paths: [/a]")
        assert (await both.ask(client, request)).endswith(b"b1")


async def test_a_monitor_of_one_service_is_a_user_of_another() -> None:
    text = """
services:
  a: {paths: [/a], variants: {stable: @a}, split: {sticky: {cookie: u}, probes: {agents: [checker]}}}
  b: {paths: [/b], variants: {stable: @b}, split: {sticky: {cookie: u}, probes: {agents: [other]}}}
"""
    async with world(text) as both:
        client = await both.running.connect()
        for _ in range(3):
            for path in ("/a", "/b"):
                await both.ask(client, get("h", path, "User-Agent: checker\r\n"))
        found = [both.services[name].context.counters.service[PROBES] for name in "ab"]
        assert found == [3, 0]


async def test_the_sticky_cookie_of_a_service_is_taken_out_of_its_requests_only() -> None:
    text = """
services:
  a: {hosts: [a], variants: {stable: @a}, split: {sticky: {cookie: u, forward: false}}}
  b: {hosts: [b], variants: {stable: @b}, split: {sticky: {cookie: u}}}
  c: {hosts: [c], variants: {stable: @c}, split: {sticky: {cookie: v, forward: false}}}
"""
    more = "Cookie: u=1234567890abcdef; v=1234567890abcdef; x=1\r\n"
    async with world(text) as three:
        client = await three.running.connect()
        http2 = await H2Client.to(three.running)
        for _ in range(3):
            for name in "abc":
                assert (await three.ask(client, get(name, more=more))).endswith(name.encode())
                fields = [*GET_2[:2], (b":authority", name.encode()), GET_2[3]]
                fields.append((b"cookie", more[8:-2].encode()))
                assert (await http2.fetch(fields)).body == name.encode()
        kept = {
            "a": b" v=1234567890abcdef; x=1",
            "b": more[7:-2].encode(),
            "c": b" u=1234567890abcdef; x=1",
        }
        for name, cookie in kept.items():
            got = three.upstreams[name].got
            assert [one.strip() for one in re.findall(rb"(?i)\r\ncookie:([^\r]*)", got)] == [
                cookie.strip()
            ] * 6


async def test_rfc4559_6_a_connection_that_a_client_has_authenticated_is_for_one_service() -> None:
    ntlm = b"HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"

    async def serve(link: Link) -> None:
        count = 0
        while await link.read():
            count += 1
            await link.send(ntlm if count == 1 else says("a"))

    async with world(ONE_HOST, {"a1": serve}) as both:
        client = await both.running.connect()
        await both.ask(client, get("h", "/a"))
        assert (await both.ask(client, get("h", "/b"))).endswith(b"b1")
        assert (await both.ask(client, get("h", "/a"))).endswith(b"a")
        assert len(both.upstreams["a1"].links) == 1
        assert b"/b" not in both.upstreams["a1"].got


# Reloads


async def test_services_come_and_go_and_the_others_keep_what_they_have() -> None:
    async with world(SHOP + ELSE) as shop:
        client = await shop.running.connect()
        assert (await shop.ask(client, get("shop.example.com"))).endswith(b"shop")
        before = shop.services["shop"]
        pools, table = before.context.pools, before.context.router.table
        (connection,) = pools[STABLE].endpoints[0].idle
        parser = shop.running.context.request_parser
        shop.reconfigure("paths: [/cart], ", "paths: [/basket], ")
        shop.reconfigure("  api: ", "  interface: ")
        assert list(shop.services.datapath.services) == ["cart", "shop", "interface", "rest"]
        assert shop.services["shop"] is before
        assert before.context.pools[STABLE] is pools[STABLE]
        assert before.context.router.table is table
        assert shop.running.context.request_parser is parser
        for host, path, name in (
            ("shop.example.com", "/cart", b"shop"),
            ("shop.example.com", "/basket", b"cart"),
            ("eu.api.example.com", "/v1", b"api"),
        ):
            assert (await shop.ask(client, get(host, path))).endswith(name)
        assert list(pools[STABLE].endpoints[0].idle) == [connection]
        assert before.context.tallies[STABLE].values[ROUTED] == 2


async def test_a_dropped_service_finishes_what_is_in_flight_and_then_gives_its_slot_back() -> None:
    async def slow(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.take(b"GO")
        await link.send(says("late"))

    async with world(SHOP, {"cart": slow}) as shop:
        client = await shop.running.connect()
        request = get("shop.example.com", "/cart", "Content-Length: 2\r\n", "POST")
        await client.send(request)
        await until(lambda: shop.upstreams["cart"].got)
        cart = shop.services["cart"]
        cells, context = cart.service.cells, cart.context
        shop.reconfigure("  cart: {hosts: [shop.example.com]", "  cart2: {hosts: [new.example.com]")
        shop.services.datapath.tick()
        assert shop.services.datapath.take_ended() == []
        other = await shop.running.connect()
        assert (await shop.ask(other, get("shop.example.com", "/cart"))).endswith(b"shop")
        await client.send(b"GO")
        await client.take(b"late")
        shop.services.datapath.tick()
        assert [one.name for one in shop.services.datapath.take_ended()] == ["cart"]
        assert shop.services.datapath.take_ended() == []
        assert cells.counters.stable[FINISHED] == cells.counters.stable[ROUTED] == 1
        assert context.pools[STABLE].endpoints[0].open == 0
        assert (await shop.ask(client, get("shop.example.com", "/cart"))).endswith(b"shop")


async def test_long_lived_connections_of_a_dropped_service_end_in_time() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    text = "limits: {drain_timeout: 10ms}\n" + SHOP
    async with world(text, {"cart": always(switched)}) as shop:
        client = await shop.running.connect()
        more = "Connection: upgrade\r\nUpgrade: x\r\n"
        await client.send(get("shop.example.com", "/cart", more))
        await client.take(b"\r\n\r\n")
        shop.reconfigure("paths: [/cart]", "paths: [/basket]")
        shop.services.datapath.tick()
        assert not client.eof
        shop.reconfigure("  cart: ", "  basket: ")
        datapath, over = shop.services.datapath, list[str]()

        def is_over() -> bool:
            datapath.tick()
            over.extend(one.name for one in datapath.take_ended())
            return bool(over)

        await until(is_over)
        await client.to_end()
        assert over == ["cart"]


# What idle services cost


async def test_a_service_gets_its_counters_with_its_first_request() -> None:
    async with world(SHOP) as shop:
        client = await shop.running.connect()
        await shop.ask(client, get("shop.example.com"))
        awake = [
            name for name, one in shop.services.datapath.services.items() if one.context.is_awake
        ]
        assert awake == ["shop"]
        used = [
            name
            for name, one in shop.services.datapath.services.items()
            if one.service.cells.is_used
        ]
        assert used == ["shop"]


async def test_idle_services_take_part_in_one_tick_of_ten() -> None:
    async with world(SHOP) as shop:
        client = await shop.running.connect()
        await shop.ask(client, get("shop.example.com"))
        datapath = shop.services.datapath
        datapath.tick()
        assert shop.services["shop"] in datapath.due
        due = []
        for _ in range(20):
            datapath.tick()
            due += [one.service.name for one in datapath.due]
        assert sorted(due) == ["api", "api", "cart", "cart", "shop", "shop"]


async def test_hosts_that_come_once_do_not_fill_the_memory() -> None:
    text = 'services: {all: {hosts: ["*.test"], variants: {stable: @all}}}'
    async with world(text) as one:
        context = one.running.context
        peer = Peer("127.0.0.1", b"http", False, b"127.0.0.1:80")
        for number in range(3000):
            request = context.request_parser.parse(get(f"h{number}.test"), peer)
            assert find_service(context, request) is one.services["all"].context
        assert 0 < len(context.by_host) <= 1024
        client = await one.running.connect()
        for _ in range(2):
            assert (await one.ask(client, get("h1.test"))).endswith(b"all")
