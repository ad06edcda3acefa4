"""A client of HTTP/2 by the library ``h2``, over a raw connection to the proxy."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

import h2.events
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection

from .harness import DEADLINE, Client, Proxy

Fields = list[tuple[bytes, bytes]]

GET: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"h"),
    (b":path", b"/"),
    (b"cookie", b"canary_id=0123456789abcdef0123456789abcdef"),
]
POST: Fields = [(b":method", b"POST"), *GET[1:]]


@dataclass
class Reply:
    """What came on a stream."""

    head: dict[bytes, bytes] = field(default_factory=dict)
    interim: list[dict[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.head.get(b":status", b"0"))

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class H2Client:
    """One connection. ``takes``: the windows are opened again for what was received."""

    def __init__(self, client: Client, *, takes: bool = True) -> None:
        self.client = client
        self.takes = takes
        config = H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = H2Connection(config)
        _go_on_after_goaway(self.h2)
        self.replies: dict[int, Reply] = {}
        self.goaway: int | None = None
        self.last: list[int] = []
        """The last streams of the GOAWAY frames that came."""

    @classmethod
    async def to(cls, running: Proxy, *, takes: bool = True) -> H2Client:
        made = cls(await running.connect(), takes=takes)
        made.h2.initiate_connection()
        await made.flush()
        return made

    async def flush(self) -> None:
        await self.client.send(self.h2.data_to_send())

    async def ask(self, fields: Fields = GET, body: bytes = b"", *, end: bool = True) -> int:
        """Send a request, whose body must fit into the windows; returns its stream."""
        number = self.h2.get_next_available_stream_id()
        self.replies[number] = Reply()
        self.h2.send_headers(number, fields, end_stream=end and not body)
        if body:
            await self.send(number, body, end=end)
        await self.flush()
        return number

    async def send(self, number: int, body: bytes, *, end: bool = False) -> None:
        """Send content as fast as the windows open."""
        while body:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if not room:
                await self.flush()
                await self.read()
                continue
            part, body = body[:room], body[room:]
            self.h2.send_data(number, part, end_stream=end and not body)
        await self.flush()

    async def reply(self, number: int) -> Reply:
        """Read until the stream is over."""
        limit = monotonic() + DEADLINE
        while not self.replies[number].over:
            assert monotonic() < limit, self.replies[number]
            if not await self.read():
                break
        return self.replies[number]

    async def fetch(self, fields: Fields = GET, body: bytes = b"") -> Reply:
        return await self.reply(await self.ask(fields, body))

    async def read(self) -> bool:
        """Read what is there; false at the end of the connection."""
        data = await self.client.read()
        for event in self.h2.receive_data(data):
            self._take(event)
        await self.flush()
        return bool(data)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
            self.last.append(event.last_stream_id or 0)
            return
        reply = self.replies.get(getattr(event, "stream_id", None) or 0)
        if reply is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            reply.head = fields_of(event)
        elif isinstance(event, h2.events.InformationalResponseReceived):
            reply.interim.append(fields_of(event))
        elif isinstance(event, h2.events.DataReceived):
            reply.body += event.data or b""
            if self.takes and event.flow_controlled_length:
                self.h2.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id or 0
                )
        elif isinstance(event, h2.events.TrailersReceived):
            reply.trailers = fields_of(event)
        elif isinstance(event, h2.events.StreamEnded):
            reply.ended = True
        elif isinstance(event, h2.events.StreamReset):
            reply.reset = int(event.error_code or 0)


def _go_on_after_goaway(connection: H2Connection) -> None:
    """Take streams in flight to their end after GOAWAY, which ``h2`` does not (python-hyper/h2#1181)."""
    machine = connection.state_machine
    opened = ConnectionState.CLIENT_OPEN
    machine._transitions = {
        **machine._transitions,
        (opened, ConnectionInputs.RECV_GOAWAY): (None, opened),
    }


def fields_of(
    event: h2.events.ResponseReceived
    | h2.events.InformationalResponseReceived
    | h2.events.TrailersReceived,
) -> dict[bytes, bytes]:
    return {bytes(name): bytes(value) for name, value in event.headers or ()}
