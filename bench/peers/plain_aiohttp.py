"""The proxy that one writes first with aiohttp: ``web.Server`` in front, ``ClientSession`` behind.

An ordinary, careful one: bodies are streamed, the target is passed on as received, hop-by-hop
headers are removed, users stick to their variant by cookie, connections are kept.
Example: python -m bench.peers.plain_aiohttp 8080 9001 9002 --weight 10
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import zlib

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from bench.harness.ports import HOST
from bench.loads import COOKIE

_BUCKETS = 10_000
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


class PlainProxy:
    """Forwards each request to one of two upstreams."""

    def __init__(
        self, session: aiohttp.ClientSession, stable: str, canary: str, weight: float
    ) -> None:
        self._session = session
        self._stable = stable
        self._canary = canary
        self._threshold = weight * _BUCKETS / 100

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request with what the upstream answers, or 502."""
        user = request.cookies.get(COOKIE)
        key = user or secrets.token_hex(16)
        on_canary = zlib.crc32(key.encode()) % _BUCKETS < self._threshold
        origin = self._canary if on_canary else self._stable
        headers = _without_hop_by_hop(request.headers)
        headers["X-Forwarded-For"] = request.remote or ""
        headers["Via"] = "1.1 plain"
        try:
            async with self._session.request(
                request.method,
                URL(origin + request.raw_path, encoded=True),
                headers=headers,
                data=request.content if request.body_exists else None,
                allow_redirects=False,
            ) as upstream:
                response = web.StreamResponse(
                    status=upstream.status,
                    reason=upstream.reason,
                    headers=_without_hop_by_hop(upstream.headers),
                )
                if user is None:
                    response.set_cookie(COOKIE, key, path="/", httponly=True, samesite="Lax")
                await response.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=f"{error}\n")


def _without_hop_by_hop(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP
    )


async def serve(port: int, stable: int, canary: int, weight: float) -> None:
    """Serve on the loopback until cancelled."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3600),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=30),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    ) as session:
        proxy = PlainProxy(session, f"http://{HOST}:{stable}", f"http://{HOST}:{canary}", weight)
        server = web.Server(proxy.handle, access_log=None)
        listening = await asyncio.get_running_loop().create_server(server, HOST, port, backlog=1024)
        await listening.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "stable", "canary"):
        parser.add_argument(name, type=int)
    parser.add_argument("--weight", type=float, default=10.0, help="percent of users on the canary")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.stable, arguments.canary, arguments.weight))


if __name__ == "__main__":
    main()
