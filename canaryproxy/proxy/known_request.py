"""Requests of HTTP/2 that come again: equal field blocks of a connection share one head and its request."""

from __future__ import annotations

from typing import Final

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.request import Request
from canaryproxy.http2.messages import Head

_TIMEOUT: Final = b"\r\ngrpc-timeout: "
"""What is left of it is written into the head to forward, so that each request needs its own."""


class KnownRequest:
    """The request that a head was parsed to, and by what."""

    __slots__ = ("parser", "peer", "request", "text")

    def __init__(self, parser: RequestHeadCache, peer: Peer, text: bytes, request: Request) -> None:
        self.parser = parser
        self.peer = peer
        self.text = text
        self.request = request


def parse(parser: RequestHeadCache, peer: Peer, head: Head, text: bytes) -> Request:
    """Return the request of a head, ``text`` in HTTP/1.1. Raises ``Refusal``."""
    known = head.meaning
    if (
        isinstance(known, KnownRequest)
        and known.text is text
        and known.parser is parser
        and known.peer is peer
    ):
        return known.request
    request = parser.parse(text, peer)
    request.never_indexed = head.never_indexed
    if parser.repeats(request) and _TIMEOUT not in text:
        head.meaning = KnownRequest(parser, peer, text, request)
    return request
