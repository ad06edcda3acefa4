"""``python -m bench.http2``: what a small request costs the HTTP/2 room, beside ``h2``.

Server side only, bytes in and bytes out, no sockets: one HEADERS frame with END_STREAM is parsed, one
HEADERS and one DATA frame are written. The client's frames are made before, by ``hpack``. Prints µs of CPU
a request.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from time import process_time

import hpack
import hyperframe.frame as hf
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.request import RequestParser
from canaryproxy.http2 import connection
from canaryproxy.http2.connection import Connection
from canaryproxy.http2.events import HeadReceived
from canaryproxy.http2.frames import PREFACE

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 13\r\n"
    b"server: upstream\r\ndate: Sun, 29 Nov 2026 08:00:00 GMT\r\nvia: 1.1 canaryproxy\r\n"
)
FIELDS = [
    (b":status", b"200"),
    *[(line.split(b": ")[0], line.split(b": ", 1)[1]) for line in HEAD.split(b"\r\n")[1:] if line],
]
BODY = b'{"hello": 1}\n'
RUNS = 5


def requests(count: int, paths: int) -> Iterator[bytes]:
    """Yield a client's requests; ``paths`` is how many different ones there are."""
    encoder = hpack.Encoder()
    for number in range(count):
        fields = [
            hpack.HeaderTuple(":method", "GET"),
            hpack.HeaderTuple(":scheme", "http"),
            hpack.HeaderTuple(":authority", "shop.example:8080"),
            hpack.NeverIndexedHeaderTuple(":path", f"/items/{number % paths}?page=2"),
            hpack.HeaderTuple("user-agent", "h2load nghttp2/1.52.0"),
            hpack.HeaderTuple("accept", "application/json"),
            hpack.HeaderTuple("cookie", "canary_id=0123456789abcdef0123456789abcdef"),
        ]
        frame = hf.HeadersFrame(2 * number + 1, encoder.encode(fields))
        frame.flags |= {"END_HEADERS", "END_STREAM"}
        yield frame.serialize()


def ours(frames: list[bytes]) -> None:
    """Answer with our own connection."""
    server = Connection()
    server.receive(PREFACE + hf.SettingsFrame(0).serialize())
    server.take()
    for frame in frames:
        for event in server.receive(frame):
            assert isinstance(event, HeadReceived)
            server.respond(event.stream, HEAD, ends=False)
            server.send(event.stream, BODY, ends=True)
        server.take()


def ours_and_http1(frames: list[bytes]) -> None:
    """The same, and make the request that the data path forwards."""
    server = Connection()
    cache = RequestHeadCache(RequestParser(b"Via: 2.0 canaryproxy\r\n\r\n"))
    peer = Peer("127.0.0.1", b"http", False, b"")
    server.receive(PREFACE + hf.SettingsFrame(0).serialize())
    server.take()
    for frame in frames:
        for event in server.receive(frame):
            assert isinstance(event, HeadReceived)
            cache.parse(event.head.text_for(ends=event.ends), peer)
            server.respond(event.stream, HEAD, ends=False)
            server.send(event.stream, BODY, ends=True)
        server.take()


def theirs(frames: list[bytes]) -> None:
    """Answer with ``h2``."""
    server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    server.receive_data(PREFACE + hf.SettingsFrame(0).serialize())
    server.data_to_send()
    for frame in frames:
        for event in server.receive_data(frame):
            if isinstance(event, RequestReceived):
                assert event.stream_id is not None
                server.send_headers(event.stream_id, FIELDS)
                server.send_data(event.stream_id, BODY, end_stream=True)
        server.data_to_send()


def cost(run: Callable[[list[bytes]], None], frames: list[bytes]) -> float:
    """Return the least µs of CPU a request of some runs."""
    best = float("inf")
    for _ in range(RUNS):
        begin = process_time()
        run(frames)
        best = min(best, process_time() - begin)
    return best / len(frames) * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    count = parser.parse_args().requests
    built = "compiled" if connection.__file__.endswith(".so") else "plain Python"
    print(f"canaryproxy.http2 ({built}), µs of CPU a request")
    for paths, said in ((1, "the same request"), (count, "a new path each")):
        frames = list(requests(count, paths))
        print(
            f"  {said:18}  ours {cost(ours, frames):6.2f}   with http1's head"
            f" {cost(ours_and_http1, frames):6.2f}   h2 {cost(theirs, frames):7.2f}"
        )


if __name__ == "__main__":
    main()
