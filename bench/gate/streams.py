"""A client of HTTP/2 inside this process: a given number of requests over one connection, some at a time.

Its frames are made by ``hpack``: from the second request on, a field block consists of indices only, as with
any client that repeats itself.
"""

from __future__ import annotations

import socket

from hpack import Encoder

from bench.harness.ports import HOST
from bench.loads import ANSWER_BYTES, Load

_SECONDS = 20.0
_READ_BYTES = 65536
_HEAD_SIZE = 9
_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x8
_END_STREAM, _END_HEADERS = 0x1, 0x4
_STATUS_200 = 0x88
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = (2**31 - 1 - 65_535).to_bytes(4, "big")


class Streams:
    """One connection to one port with a user of its own; ``at_once`` requests are sent together.

    Every answer has to be a 200 with the upstreams' body.
    """

    def __init__(self, port: int, *, at_once: int = 16) -> None:
        self._at_once = at_once
        self._number = 1
        self._rest = b""
        self._socket = socket.create_connection((HOST, port), timeout=_SECONDS)
        encoder = Encoder()
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", f"{HOST}:{port}".encode()),
            (b"user-agent", b"bench"),
            (b"cookie", Load("", "", users=1).cookies()[0].encode()),
        ]
        first = encoder.encode(fields)
        self._block = encoder.encode(fields)
        self._socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_WINDOW_UPDATE, 0, 0, _WINDOW)
        )
        self._exchange([first])

    def close(self) -> None:
        """Close what it has opened."""
        self._socket.close()

    def send(self, count: int) -> int:
        """Send at least ``count`` requests; return how many.

        Raises OSError when an answer is not there in time or not as it should be.
        """
        sent = 0
        while sent < count:
            self._exchange([self._block] * self._at_once)
            sent += self._at_once
        return sent

    def _exchange(self, blocks: list[bytes]) -> None:
        """Send a request for each block and read all answers."""
        frames = []
        for block in blocks:
            frames.append(_frame(_HEADERS, _END_STREAM | _END_HEADERS, self._number, block))
            self._number += 2
        self._socket.sendall(b"".join(frames))
        bodies, ended = 0, 0
        while ended < len(blocks):
            kind, flags, payload = self._frame_received()
            if kind == _HEADERS and payload[0] != _STATUS_200:
                raise ConnectionError(f"answered {payload!r}")
            if kind == _DATA:
                bodies += len(payload)
            if kind in {_HEADERS, _DATA}:
                ended += flags & _END_STREAM
        if bodies != ANSWER_BYTES * len(blocks):
            raise ConnectionError(f"{bodies} bytes in {len(blocks)} answers")

    def _frame_received(self) -> tuple[int, int, bytes]:
        """Return kind, flags and payload of the next frame."""
        self._fill(_HEAD_SIZE)
        size = _HEAD_SIZE + int.from_bytes(self._rest[:3], "big")
        self._fill(size)
        frame, self._rest = self._rest[:size], self._rest[size:]
        return frame[3], frame[4], frame[_HEAD_SIZE:]

    def _fill(self, size: int) -> None:
        while len(self._rest) < size:
            more = self._socket.recv(_READ_BYTES)
            if not more:
                raise ConnectionError("closed before the answer was there")
            self._rest += more


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )
