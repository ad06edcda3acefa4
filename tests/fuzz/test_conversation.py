"""Conversations of clients, the proxy and upstreams: any order, any cut of the bytes, any end at any point.

A state machine over transports in memory, so that hypothesis decides when which bytes move, who closes or
resets, which connection is made or fails, and when time is over. An exception in a callback ends the test as
it comes; on sockets the loop's handler would get it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from canaryproxy.measure import counters
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import CANARY, RouteTable
from canaryproxy.proxy.interfaces import Caller, Connection

from .answers import Parsed, answers_in
from .memory import MemoryEndpoint, MemoryProxy, MemoryTransport
from .recorder import Recorder

pytestmark = pytest.mark.slow

CONFIG = """
variants:
  stable: {endpoints: ["http://127.0.0.1:1", "http://127.0.0.1:2"]}
  canary: {endpoints: ["http://127.0.0.1:3"]}
split: {weight: 50}
rescue: {replay_buffer: 64B}
limits: {max_endpoint_connections: 2, max_requests: 3}
"""
MOST_CLIENTS = 4
HIGH = 600
"""Bytes after which a client or an upstream that does not read is full."""
LARGEST_PIECE = 900
"""Bytes that an upstream sends at once."""
LARGEST_WRITE = LARGEST_PIECE + 300
"""What the proxy makes of them, with fields of its own."""

REQUESTS = (
    ("GET", "GET {id} HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("GET", "GET {id} HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("HEAD", "HEAD {id} HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("PUT", "PUT {id} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345"),
    ("POST", "POST {id} HTTP/1.1\r\nHost: h\r\nContent-Length: 90\r\n\r\n" + "123456789\n" * 9),
    (
        "POST",
        "POST {id} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\nT: x\r\n\r\n",
    ),
    ("GET", "GET {id} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    (
        "POST",
        "POST {id} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n123",
    ),
)
LAST = (
    "",
    "GET {id} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "GET {id} HTTP/1.0\r\n\r\n",
    "GET {id} HTTP/1.1\r\n\r\n",
    "GET {id} HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n",
    "POST {id} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nx\r\n",
    "GET {id} HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: u\r\n\r\n",
)
"""What a client may end with; behind the last one it sends what is not HTTP."""
IN_TUNNEL = b"\x00in the tunnel\r\n\r\n" * 3
BODIES = (b"", b"12345", b"123456789\n" * 9, b"123")
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nContent-Length: 6000\r\n\r\n" + b"hello " * 1000,
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nContent-Length: 1500\r\n\r\n" + b"hello" * 300,
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 503 Service Unavailable\r\nX-Id: %b\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Id: %b\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\nX-Id: %b\r\n\r\n",
    b"HTTP/1.1 200 OK\nX-Id: %b\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
    b"HTTP/1.1 200 OK\r\nX-Id: %b\r\nContent-Length: 5\r\n\r\nhello and more",
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nX-Id: %b\r\nConnection: upgrade\r\nUpgrade: u\r\n\r\n"
)
FROM_TUNNEL = b"\xff from upstream \r\n" * 3


class StoppedLoop(asyncio.SelectorEventLoop):
    """A loop that never runs: who wants to be called later is called by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[Callable[[], None]] = []

    def call_later(  # type: ignore[override]
        self, _delay: float, callback: Any, *args: Any, **_: Any
    ) -> Any:
        self.later.append(lambda: callback(*args))


class Client:
    """A client, and what it has still to say."""

    def __init__(
        self, transport: MemoryTransport, asked: list[tuple[str, bytes]], to_send: bytes
    ) -> None:
        self.transport = transport
        self.asked = asked
        """Method and target of its requests, in order."""
        self.to_send = to_send
        self.got = b""
        self.gone = False

    def answers(self) -> list[Parsed]:
        methods = [method for method, _ in self.asked]
        return answers_in(self.got, methods, closed=self.transport.closed)


class Link:
    """One connection at an upstream."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.recorder = Recorder()
        self.begun: list[tuple[bytes, bytes]] = []
        """Methods and targets of the heads that came."""
        self.answered = 0
        self.to_send = b""
        self.end = False
        """It closes when all is sent."""
        self.tunnel: bytes | None = None
        self.last = False
        """The answer under way says, or shows, that it is the last one over this connection."""
        self.most = 1000
        """Requests that may begin over it."""

    def take(self) -> None:
        """Take what the proxy wrote."""
        data = self.transport.take()
        if self.tunnel is not None:
            self.tunnel += data
            return
        self.recorder.feed(data)
        heads = [(one.method, one.target) for one in self.recorder.requests]
        match = re.match(rb"(\S+) (\S+) .*?\r\n\r\n", self.recorder.rest, re.DOTALL)
        if match:
            heads.append((match[1], match[2]))
        self.begun = heads


class Conversation(RuleBasedStateMachine):
    """Everything that can happen to a proxy, one thing at a time."""

    mirror = 0
    """Percent of stable's requests that the canary gets copies of."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = StoppedLoop()
        text = f"{CONFIG}mirror: {{percent: {self.mirror}}}\n"
        self.proxy = MemoryProxy(text, self.loop, HIGH)
        self.clients: list[Client] = []
        self.links: list[Link] = []
        self.dialling: list[tuple[MemoryEndpoint, Caller]] = []
        self.named = 0
        for endpoint in self.proxy.endpoints:
            endpoint.on_open = lambda endpoint, caller: self.dialling.append((endpoint, caller))

    def settle(self) -> None:
        self.proxy.wires.settle()

    @initialize(warm=st.booleans())
    def there_was_traffic(self, warm: bool) -> None:
        """Where there was, connections wait in pools: they may be stale."""
        if warm:
            for _ in range(2):
                self.client_connects([REQUESTS[0]], "")
            for _ in range(2):
                self.all_goes_on(ANSWERS[1], switch=False)

    # Clients

    @precondition(lambda self: len(self.clients) < MOST_CLIENTS)
    @rule(kinds=st.lists(st.sampled_from(REQUESTS), max_size=3), last=st.sampled_from(LAST))
    def client_connects(self, kinds: list[tuple[str, str]], last: str) -> None:
        asked: list[tuple[str, bytes]] = []
        data = b""
        for method, text in [
            *kinds,
            *((("POST" if "POST" in last else "GET", last),) if last else ()),
        ]:
            self.named += 1
            name = f"/{self.named}"
            asked.append((method, name.encode()))
            line, mark, rest = text.replace("{id}", name).partition("\r\n")
            # A minted cookie would make the variant a matter of chance.
            data += f"{line}{mark}Cookie: canary_id={name}{mark}{rest}".encode()
        if "Upgrade" in last:
            data += IN_TUNNEL
        self.clients.append(Client(self.proxy.client(HIGH), asked, data))
        self.settle()

    @precondition(lambda self: any(one.to_send for one in self.clients))
    @rule(data=st.data(), size=st.one_of(st.integers(1, 40), st.just(10000)))
    def client_sends(self, data: st.DataObject, size: int) -> None:
        client = data.draw(st.sampled_from([one for one in self.clients if one.to_send]))
        if not client.gone:
            piece, client.to_send = client.to_send[:size], client.to_send[size:]
            client.transport.feed(piece)
            self.settle()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def client_reads(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.got += client.transport.take()
        self.settle()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), how=st.sampled_from(("eof", "lose")))
    def client_goes(self, data: st.DataObject, how: str) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if not client.gone:
            client.gone = True
            getattr(client.transport, how)()
            self.settle()

    # Upstreams

    @precondition(lambda self: self.dialling)
    @rule(
        data=st.data(),
        fails=st.sampled_from((None, None, None, Reason.CONNECT_REFUSED, Reason.CONNECT_TIMEOUT)),
    )
    def endpoint_is_dialled(self, data: st.DataObject, fails: Reason | None) -> None:
        endpoint, caller = self.dialling.pop(data.draw(st.integers(0, len(self.dialling) - 1)))
        if fails is None:
            self.links.append(Link(endpoint.connect(self.proxy.wires, caller)))
        else:
            endpoint.fail(caller, fails)
        self.settle()

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def upstream_reads(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.links)).take()
        self.settle()

    @precondition(lambda self: self.links)
    @rule(data=st.data(), answer=st.sampled_from(ANSWERS), switch=st.booleans())
    def upstream_answers(self, data: st.DataObject, answer: bytes, switch: bool) -> None:
        """Answer the next request, early if it did not come whole."""
        link = data.draw(st.sampled_from(self.links))
        link.take()
        self.answer(link, answer, switch)
        self.settle()

    @rule()
    def all_ask(self) -> None:
        """Every client sends all that it has, and the upstreams read it."""
        for client in self.clients:
            if not client.gone:
                piece, client.to_send = client.to_send, b""
                client.transport.feed(piece)
                self.settle()
        while self.dialling:
            endpoint, caller = self.dialling.pop(0)
            self.links.append(Link(endpoint.connect(self.proxy.wires, caller)))
            self.settle()
        for link in self.links:
            link.take()
            self.settle()

    @rule(answer=st.sampled_from(ANSWERS), switch=st.booleans())
    def all_goes_on(self, answer: bytes, switch: bool) -> None:
        """Everybody sends and reads what there is."""
        self.all_ask()
        for link in self.links:
            self.answer(link, answer, switch)
            while link.to_send and not link.transport.closed:
                self.send_piece(link, LARGEST_PIECE)
        for client in self.clients:
            client.got += client.transport.take()
            self.settle()

    def answer(self, link: Link, answer: bytes, switch: bool) -> None:
        if link.answered >= len(link.begun) or link.tunnel is not None:
            return
        method, target = link.begun[link.answered]
        whole = link.recorder.requests
        if switch and len(whole) > link.answered and whole[link.answered].all(b"upgrade"):
            link.tunnel = link.recorder.rest
            link.to_send += SWITCH % target + FROM_TUNNEL
        else:
            head, _, body = (answer % target if b"%b" in answer else answer).partition(b"\r\n\r\n")
            while head.startswith(b"HTTP/1.1 1"):
                more, _, body = body.partition(b"\r\n\r\n")
                link.to_send += head + b"\r\n\r\n"
                head = more
            link.to_send += head + b"\r\n\r\n" + (b"" if method == b"HEAD" else body)
            link.last = b"close" in head or (method != b"HEAD" and b"hello and more" in body)
            link.end = link.end or (b"\n\r\nhello" in b"\n\r\n" + body and b"ength" not in head)
        link.answered += 1

    @precondition(lambda self: any(one.to_send for one in self.links))
    @rule(data=st.data(), size=st.one_of(st.integers(1, 60), st.just(LARGEST_PIECE)))
    def upstream_sends(self, data: st.DataObject, size: int) -> None:
        link = data.draw(st.sampled_from([one for one in self.links if one.to_send]))
        if not link.transport.closed:
            self.send_piece(link, size)

    def send_piece(self, link: Link, size: int) -> None:
        piece, link.to_send = link.to_send[:size], link.to_send[size:]
        link.transport.feed(piece)
        if link.end and not link.to_send:
            link.transport.eof()
        self.settle()
        self.memory_is_bounded()
        if not link.to_send and link.tunnel is None and link.transport.reading:
            # All of the answer has come; a request that has not come whole by now is broken off.
            link.take()
            if link.last or len(link.recorder.requests) < link.answered:
                link.most = min(link.most, link.answered)

    @precondition(lambda self: self.links)
    @rule(data=st.data(), how=st.sampled_from(("eof", "lose", "noise")))
    def upstream_fails(self, data: st.DataObject, how: str) -> None:
        link = data.draw(st.sampled_from(self.links))
        link.take()
        if link.transport.closed:
            return
        if how == "noise":
            if link.answered < len(link.begun) or link.recorder.begun or link.to_send:
                return
            link.transport.feed(b"HTTP/1.1 200 OK\r\nX-Id: noise\r\nContent-Length: 0\r\n\r\n")
        else:
            link.to_send = b""
            getattr(link.transport, how)()
        self.settle()

    # Time and operators

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), silent=st.booleans())
    def time_is_over_for_a_client(self, data: st.DataObject, silent: bool) -> None:
        """Once is a look whether something moved, twice that nothing did meanwhile."""
        protocol = data.draw(st.sampled_from(self.clients)).transport.protocol
        assert isinstance(protocol, Connection)
        for _ in range(1 + silent):
            if protocol.deadline < float("inf"):
                protocol.sweep(protocol.deadline + 0.001)
                self.settle()

    @precondition(lambda self: self.loop.later)
    @rule()
    def a_timer_fires(self) -> None:
        self.loop.later.pop(0)()
        self.settle()

    @rule(weight=st.sampled_from((0.0, 50.0, 100.0)))
    def weight_changes(self, weight: float) -> None:
        table = self.proxy.service.context.router.table
        self.proxy.service.publish(RouteTable(weight, table.salt))

    # What always holds

    @invariant()
    def answers_are_in_order_and_at_most_one_each(self) -> None:
        for client in self.clients:
            answers = client.answers()
            assert len(answers) <= len(client.asked) + 1
            for number, answer in enumerate(answers):
                if answer.identity:
                    assert answer.identity == client.asked[number][1], (client.asked, client.got)
                else:
                    assert answer.by_proxy, client.got
            for answer in answers[:-1]:
                assert answer.complete

    @invariant()
    def what_must_not_be_repeated_is_not(self) -> None:
        posts = [
            target for link in self.links for method, target in link.begun if method == b"POST"
        ]
        assert len(posts) == len(set(posts))

    @invariant()
    def bodies_arrive_as_they_were_sent(self) -> None:
        for link in self.links:
            for one in link.recorder.requests:
                assert one.body in BODIES
                assert one.method in (b"PUT", b"POST") or not one.body

    @invariant()
    def connections_that_are_over_are_not_used_again(self) -> None:
        for link in self.links:
            assert len(link.begun) <= link.most

    @invariant()
    def memory_is_bounded(self) -> None:
        for client in self.clients:
            assert len(client.transport.written) <= HIGH + LARGEST_WRITE

    @invariant()
    def what_is_in_flight_is_counted(self) -> None:
        datapath = self.proxy.datapath
        cells = self.proxy.counters.variants
        open_ = sum(one[counters.TUNNELS_OPENED] - one[counters.TUNNELS_CLOSED] for one in cells)
        finished = sum(one[counters.ROUTED] - one[counters.FINISHED] for one in cells)
        # A rescued request is counted when its canary fails, a tunnel with its handshake.
        assert 0 <= finished <= datapath.context.in_flight
        assert 0 <= open_ <= datapath.context.in_flight
        for endpoint in self.proxy.endpoints:
            assert endpoint.active >= 0
            assert 0 <= endpoint.open <= 2 + len(self.loop.later) + 1

    def none_connects(self) -> None:
        while self.dialling:
            endpoint, caller = self.dialling.pop()
            endpoint.fail(caller, Reason.CONNECT_REFUSED)
            self.settle()

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.loop.close()

    def end(self) -> None:
        """Everybody goes: nothing may be left over, and everything is accounted for."""
        for link in self.links:
            link.take()
        for client in self.clients:
            client.got += client.transport.take()
            client.transport.lose()
        self.settle()
        self.none_connects()
        for link in self.links:
            link.transport.lose()
        self.settle()
        self.none_connects()  # a copy is sent again over a new connection if its own was stale
        self.answers_are_in_order_and_at_most_one_each()
        self.what_must_not_be_repeated_is_not()
        datapath = self.proxy.datapath
        assert datapath.context.in_flight == 0
        assert not datapath.context.connections
        cells = self.proxy.counters
        assert cells.proxy[counters.CONNECTIONS_OPENED] == len(self.clients)
        assert cells.proxy[counters.CONNECTIONS_CLOSED] == len(self.clients)
        for one in cells.variants:
            assert one[counters.ROUTED] == one[counters.FINISHED]
            codes = sum(count for _, count in counters.codes(one))
            assert codes + one[counters.CLIENT_CLOSED] == one[counters.FINISHED]
            assert one[counters.TUNNELS_OPENED] == one[counters.TUNNELS_CLOSED]
        assert cells.variants[CANARY][counters.RESCUED] <= cells.variants[CANARY][counters.ROUTED]
        assert not self.proxy.service._mirror.copies
        for endpoint in self.proxy.endpoints:
            assert endpoint.active == 0
            assert endpoint.open == 0
            assert not endpoint.idle


class Mirrored(Conversation):
    """The same, with copies that nobody may notice."""

    mirror = 70

    @rule()
    def copies_are_late(self) -> None:
        self.proxy.service._mirror.end()
        self.settle()


SETTINGS = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestConversation = Conversation.TestCase
TestMirrored = Mirrored.TestCase
TestConversation.settings = TestMirrored.settings = SETTINGS
