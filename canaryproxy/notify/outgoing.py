"""One POST: what is sent, what comes back, and what went wrong in words that hide what is secret.

Threads: looking up a name can take half a minute, and the few threads of the loop (uvloop: four) also look up
the upstreams and write the state file. So each name is looked up in a thread of its own, and a dead name
server holds up nobody else.
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
_BODY_LIMIT = 4096
"""Bytes of an answer that are looked at."""
_EXCERPT = 200
"""Characters of an answer that people get to see."""
_TEXTS = frozenset({"text/plain", "application/json", "application/problem+json"})
_SHORTEST_SECRET = 4
_NOT_VALID = "cannot be called: its URL is not valid"

P = ParamSpec("P")
T = TypeVar("T")


class Unanswered(Exception):
    """No answer, or a broken one. Says why in words without secrets."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a receiver answered."""

    status: int
    retry_after: float | None
    """Seconds that it asks to wait; may be negative, or more than anybody would wait."""
    text: str
    """The beginning of a text body on one line, if it was asked for."""

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return f"answered {self.status}" + (f": {self.text}" if self.text else "")


def shown(url: str, *, path: bool = True) -> str:
    """Return scheme, host, port and path of a URL: what may be logged.

    Without ``path`` for URLs of chats, whose path is their password.
    """
    found = _URL.fullmatch(url)
    if found is None:
        return "a URL that is not valid"
    return found["origin"] + found["host"] + ((found["path"] or "") if path else "")


class Client:
    """Sends POSTs; to be closed, or used with ``async with``. Created in a running loop.

    A connection serves one request: messages are rare, and one that was kept may have died meanwhile. No
    redirect is followed, no cookie kept, and no proxy or ``.netrc`` of the environment used: what the
    configuration names is what is called, with the credentials that it names.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}
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
        """Close every connection; wait for no thread."""
        await self._session.close()
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)

    async def in_thread(
        self, name: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``call`` in the thread of that name, which does one thing after the other."""
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
    ) -> Reply:
        """POST ``body`` and return the answer, whatever its status.

        ``timeout`` (seconds) is for everything together. With ``excerpt`` the beginning of the body, at most
        4 KiB, is read too, and a body that breaks off there is a broken answer; else it is not looked at.
        Raises ``Unanswered``.
        """
        if _URL.fullmatch(url) is None:
            raise Unanswered(_NOT_VALID)
        try:
            async with self._session.post(
                URL(url, encoded=url.isascii()),  # as it is: a query may be signed byte for byte
                data=body,
                headers=headers,
                allow_redirects=False,
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
                return Reply(response.status, wait, one_line(text)[:_EXCERPT])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # None of their own words, which may hold the URL.
            raise Unanswered(_words(error, timeout)) from None


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
        """The threads are the client's."""


async def _start(content: aiohttp.StreamReader) -> bytes:
    read = bytearray()
    while len(read) < _BODY_LIMIT:
        chunk = await content.read(_BODY_LIMIT - len(read))
        if not chunk:
            break
        read += chunk
    return bytes(read)


def _without_secrets(text: str, url: str) -> str:
    """Return the text of an answer, which may repeat the request, without what ``shown`` leaves out."""
    parts = urlsplit(url)
    userinfo, _, _ = parts.netloc.rpartition("@")
    secrets = {userinfo, *userinfo.split(":", 1), parts.query}
    secrets |= {value for _, value in parse_qsl(parts.query)}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "[hidden]")
    return text


def _seconds(retry_after: str | None, date: str | None) -> float | None:
    """Return Retry-After (RFC 9110 §10.2.3) in seconds; a time is compared to the receiver's own clock."""
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
            return f"did not answer within {timeout:g} s"
        case aiohttp.ClientConnectorDNSError():
            return "cannot be reached: its name is not known"
        case aiohttp.ClientConnectorCertificateError():
            why = error.certificate_error
            words = why.verify_message if isinstance(why, ssl.SSLCertVerificationError) else ""
            return f"has no valid certificate: {words or type(why).__name__}"
        case aiohttp.ClientSSLError():
            return "does not speak TLS as it should"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            return (
                f"cannot be reached: {os.strerror(number).lower() if number else 'no connection'}"
            )
        case aiohttp.ClientResponseError():
            return "did not answer in HTTP"
        case ValueError():  # of aiohttp, yarl or the encoding of names
            return _NOT_VALID
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return "broke off its answer"
    return f"cannot be called ({type(error).__name__})"
