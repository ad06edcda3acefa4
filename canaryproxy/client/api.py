"""A client of the admin API over its Unix socket or an http(s) address."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import ClientSession, ClientTimeout

from canaryproxy.client.events import Message, Parser, TooLong

TIMEOUT = 15.0
"""Seconds for a response."""
_TIMEOUT = ClientTimeout(total=TIMEOUT, sock_connect=5)
_DRILL_TIMEOUT = ClientTimeout(total=60, sock_connect=5)
_STREAM_TIMEOUT = ClientTimeout(total=None, sock_connect=5, sock_read=10)
"""The proxy writes to a stream every second; after ten seconds of silence the connection is lost."""
_NOT_ADMIN = "the response is not one of canaryproxy's admin API"
_HOST_PORT = re.compile(r"(?:[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


class Unreachable(Exception):
    """There is no response, or not a complete one; ``str`` is the reason."""


class Denied(Unreachable):
    """The user may not open the socket."""


class PlainHttp(Unreachable):
    """The address does not speak TLS."""


class Silent(Unreachable):
    """The connection was accepted, but no response came in time."""


class Refused(Exception):
    """The proxy responded with a problem. Nothing was changed, unless ``str`` says otherwise."""

    def __init__(
        self, status: int, detail: str, errors: tuple[Mapping[str, Any], ...] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = errors


class NotAdmin(Refused):
    """The server at this address is not the admin API."""


@dataclass(frozen=True, slots=True)
class Address:
    """Address of the admin API: the path of a Unix socket, or a URL."""

    socket: str | None = None
    url: str | None = None

    @classmethod
    def of(cls, text: str) -> Address:
        """Return the address for ``/path``, ``unix:/path``, ``http://host:port`` or ``host:port``."""
        if text.startswith(("http://", "https://")):
            return cls(url=text.rstrip("/"))
        if _HOST_PORT.fullmatch(text):
            return cls(url=f"http://{text}")
        return cls(socket=text.removeprefix("unix:"))

    def __str__(self) -> str:
        return self.socket or self.url or ""


@dataclass(frozen=True, slots=True)
class Response:
    """A JSON object and its ``ETag``, to be sent back in ``If-Match``."""

    body: dict[str, Any]
    etag: str | None


class Client:
    """A client of one running proxy, used with ``async with``.

    Every method raises ``Unreachable`` or ``Refused``. ``token`` is sent to http(s) addresses only.
    """

    def __init__(self, address: Address, token: str | None = None) -> None:
        self.address = address
        self._base = address.url or "http://localhost"
        self._headers = {"Accept": "application/json", "User-Agent": "canaryproxy"}
        if token is not None and address.url is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Client:
        path = self.address.socket
        connector = None if path is None else aiohttp.UnixConnector(path)
        self._session = ClientSession(connector=connector, timeout=_TIMEOUT, headers=self._headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def release(self) -> Response:
        """Return the release document."""
        return await self._send("GET", "/v1/release")

    async def config(self) -> Response:
        """Return the configuration, whose ``ETag`` is a precondition of ``reload``."""
        return await self._send("GET", "/v1/config")

    async def history(self, after: int | None, limit: int) -> list[dict[str, Any]]:
        """Return records, oldest first: those after a number, or the newest."""
        query = {"limit": str(limit)} | ({} if after is None else {"after": str(after)})
        found = (await self._send("GET", "/v1/history", query=query)).body.get("records")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    async def operate(self, name: str, body: Mapping[str, Any], etag: str | None) -> Response:
        """Carry out an operation, on the condition that nothing has changed since ``etag``.

        ``name`` is start, pause, resume, promote, abort, reset, accept, trip, drill, weight or reload.
        """
        method, path = {"weight": ("PUT", "/v1/weight"), "reload": ("POST", "/v1/reload")}.get(
            name, ("POST", f"/v1/release/{name}")
        )
        timeout = _DRILL_TIMEOUT if name == "drill" else _TIMEOUT
        return await self._send(method, path, body=body, etag=etag, timeout=timeout)

    async def stream(self, after: int | None) -> AsyncIterator[Message]:
        """Yield the events of ``/v1/stream`` until it ends, beginning with the records after a number."""
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        parser = Parser()
        try:
            async with self._request(
                "GET", "/v1/stream", headers=headers, timeout=_STREAM_TIMEOUT
            ) as response:
                if response.status != 200:
                    raise await _problem(response)
                if response.content_type != "text/event-stream":
                    raise Refused(404, "the address has no event stream")
                async for chunk in response.content.iter_any():
                    for message in parser.feed(chunk):
                        yield message
        except (aiohttp.ClientError, OSError, TimeoutError, TooLong) as error:
            raise _unreachable(error) from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        etag: str | None = None,
        timeout: ClientTimeout = _TIMEOUT,
    ) -> Response:
        headers = {} if etag is None else {"If-Match": etag}
        try:
            async with self._request(
                method, path, headers=headers, timeout=timeout, params=query, json=body
            ) as response:
                if response.status != 200:
                    raise await _problem(response)
                found = _object(await response.read())
                if found is None:
                    raise NotAdmin(response.status, _NOT_ADMIN)
                return Response(found, response.headers.get("ETag"))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(error) from error

    def _request(self, method: str, path: str, **more: Any) -> Any:
        assert self._session is not None
        return self._session.request(method, self._base + path, allow_redirects=False, **more)


async def _problem(response: aiohttp.ClientResponse) -> Refused:
    """Return the problem in a response (RFC 9457)."""
    found = _object(await response.read())
    if found is None or not isinstance(found.get("detail"), str):
        return NotAdmin(response.status, _NOT_ADMIN)
    errors = found.get("errors")
    listed = errors if isinstance(errors, list) else []
    return Refused(
        response.status, found["detail"], tuple(one for one in listed if isinstance(one, dict))
    )


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _unreachable(error: Exception) -> Unreachable:
    """Return what an exception of aiohttp means."""
    number = getattr(error, "errno", None)
    if isinstance(error, (aiohttp.ConnectionTimeoutError, TimeoutError)):
        connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
        return Unreachable("connecting timed out") if connecting else Silent("no response in time")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unreachable(f"its certificate is not trusted: {error.certificate_error}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return PlainHttp("it does not speak TLS")
    if number == errno.EACCES:
        return Denied(os.strerror(number))
    if isinstance(number, int) and number > 0:
        return Unreachable(os.strerror(number))
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        return Unreachable("the connection was closed")
    return Unreachable(str(error) or type(error).__name__)
