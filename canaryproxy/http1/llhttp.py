"""What aiohttp's parsers want to have: a protocol that they could pause."""

from __future__ import annotations

import asyncio

from aiohttp.base_protocol import BaseProtocol


class NoFlowControl(BaseProtocol):
    """Stands in for the protocol that aiohttp's parser would pause; it sees no bodies."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
