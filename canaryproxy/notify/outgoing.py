"""One POST to a webhook or gate: the request, the response, and errors in words without secrets.

Resolving a name can block for half a minute. uvloop resolves in four threads, which upstreams need too, so
each host name of a webhook has a thread of its own here: a dead name server delays nothing else
(``docs/decisions/0008-webhook-resolution.md``).
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import ParamSpec, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from canaryproxy import __version__
from canaryproxy.notify.message import one_line

_URL = re.compile(
    r"(?P<origin>https?://)(?:[^/?#]*@)?"
    r"(?P<host>(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)(?P<path>/[^?#]*)?(?:[?#].*)?",
    re.DOTALL,
)
_MAX_BODY = 4096
"""Bytes of a response body that are read."""
_EXCERPT = 200
"""Characters of a response body that people see."""
_TEXTS = frozenset({"text/plain", "application/json", "application/problem+json"})
_MIN_SECRET = 4
_NOT_VALID = "cannot be called: invalid URL"

P = ParamSpec("P")
T = TypeVar("T")


class NoResponse(Exception):
    """No response, or an invalid one. The text says why and contains no secrets."""


@dataclass(frozen=True, slots=True)
class Response:
    """The response of a receiver."""

    status: int
    retry_after: float | None
    """Seconds that it asks to wait; not bounded, and may be negative."""
    text: str
    """The beginning of a text body, on one line, if an excerpt was requested."""

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return f"responded {self.status}" + (f": {self.text}" if self.text else "")


def shown(url: str, *, path: bool = True) -> str:
    """Return scheme, host, port and path of a URL, which can be logged.

    For chat webhooks pass ``path=False``: the path is a secret.
    """
    found = _URL.fullmatch(url)
    if found is None:
        return "an invalid URL"
    return found["origin"] + found["host"] + ((found["path"] or "") if path else "")


class Client:
    """Sends POSTs. Create it in a running loop, and close it or use it with ``async with``.

    A connection serves one request: messages are rare, and an idle connection may have died meanwhile. The
    client follows no redirect, keeps no cookie, and ignores proxies and ``.netrc`` of the environment: it
    calls the URL of the configuration, with the credentials of the configuration.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._tls: ssl.SSLContext | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(self), use_dns_cache=False, force_close=True, limit=0
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={
                "User-Agent": f"canaryproxy/{__version__}",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection, without waiting for threads."""
        await self._session.close()
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)

    async def in_thread(
        self, name: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``call`` in the thread called ``name``, which runs one call at a time."""
        if name not in self._threads:
            self._threads[name] = ThreadPoolExecutor(1, "notify")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[name], lambda: call(*args, **kwargs))

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,
        *,
        excerpt: bool = False,
    ) -> Response:
        """POST ``body`` and return the response, whatever its status.

        ``timeout`` is in seconds, from resolving the name to the response. With ``excerpt``, up to 4 KiB of
        the response body are read too, and a body that ends early within them makes the response invalid.
        Raises ``NoResponse``.
        """
        if _URL.fullmatch(url) is None:
            raise NoResponse(_NOT_VALID)
        if self._tls is None and url.startswith("https:"):  # reads the system's authorities
            self._tls = await self.in_thread("authorities", ssl.create_default_context)
        try:
            async with self._session.post(
                URL(url, encoded=url.isascii()),  # as it is: a query may be signed byte for byte
                data=body,
                headers=headers,
                allow_redirects=False,
                ssl=self._tls or True,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                text = ""
                if excerpt:
                    start = await _start(response.content)
                    if (
                        response.content_type in _TEXTS
                        and "Content-Encoding" not in response.headers
                    ):
                        text = _without_secrets(start.decode("utf-8", "replace"), url)
                wait = _seconds(response.headers.get("Retry-After"), response.headers.get("Date"))
                return Response(response.status, wait, one_line(text)[:_EXCERPT])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Not their own text, which may contain the URL.
            raise NoResponse(_words(error, timeout)) from None


class _Resolver(AbstractResolver):
    def __init__(self, client: Client) -> None:
        self._client = client

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._client.in_thread(
            f"name {host}",
            socket.getaddrinfo,
            host,
            port,
            family=family,
            type=socket.SOCK_STREAM,
            flags=socket.AI_ADDRCONFIG,
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: the threads belong to the client."""


async def _start(content: aiohttp.StreamReader) -> bytes:
    read = bytearray()
    while len(read) < _MAX_BODY:
        chunk = await content.read(_MAX_BODY - len(read))
        if not chunk:
            break
        read += chunk
    return bytes(read)


def _without_secrets(text: str, url: str) -> str:
    """Return the text of a response, which may echo the request, without the parts that ``shown`` omits."""
    parts = urlsplit(url)
    userinfo, _, _ = parts.netloc.rpartition("@")
    secrets = {userinfo, *userinfo.split(":", 1), parts.query}
    secrets |= {value for _, value in parse_qsl(parts.query)}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, "[hidden]")
    return text


def _seconds(retry_after: str | None, date: str | None) -> float | None:
    """Return Retry-After (RFC 9110 §10.2.3) in seconds; a date is compared to the receiver's own clock."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        until, now = (parsedate_to_datetime(text or "") for text in (retry_after, date))
        return (until.astimezone(UTC) - now.astimezone(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None


def _words(error: Exception, timeout: float) -> str:
    match error:
        case TimeoutError():
            return f"did not respond within {timeout:g} s"
        case aiohttp.ClientConnectorDNSError():
            return "cannot be reached: host name not found"
        case aiohttp.ClientConnectorCertificateError():
            why = error.certificate_error
            words = why.verify_message if isinstance(why, ssl.SSLCertVerificationError) else ""
            return f"certificate not valid: {words or type(why).__name__}"
        case aiohttp.ClientSSLError():
            return "TLS handshake failed"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            return f"cannot be reached: {os.strerror(number).lower() if number else 'connection failed'}"
        case aiohttp.ClientResponseError():
            return "did not respond with valid HTTP"
        case ValueError():  # of aiohttp, yarl or the encoding of names
            return _NOT_VALID
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return "closed the connection before the response was complete"
    return f"could not be called ({type(error).__name__})"
