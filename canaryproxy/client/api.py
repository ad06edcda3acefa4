"""A client of the admin API over its Unix socket or an http(s) address.

Every response must show the header of the admin API. A change, and the token, are sent only after a response
on the same session has shown it: another service at the address receives a GET without a token, no more.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from canaryproxy import API_HEADER, API_VERSION
from canaryproxy.client.events import Message, Parser, TooLong
from canaryproxy.deferred import defer

# Completion and help of commands send nothing, and aiohttp is 0.2 s of processor time.
defer("aiohttp")

import aiohttp  # noqa: E402

TIMEOUT = 15.0
"""Seconds for a response."""
_DRILL_TIMEOUT = 900.0
_CONNECT_TIMEOUT = 5.0
_SILENCE = 10.0
"""The proxy writes to a stream every second; after ten seconds of silence the connection is lost."""
_HANDSHAKE = 3.0
"""Seconds for a TLS handshake, to find out whether there is TLS."""
_STATES = ("idle", "running", "paused", "tripped", "probing", "promoted", "aborting", "aborted")
_HOST_PORT = re.compile(r"(?:[0-9A-Za-z.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


class Unreachable(Exception):
    """There is no response, or not a complete one; ``str`` is the reason."""


class NobodyListens(Unreachable):
    """No process listens on the address."""


class HandshakeFailed(Unreachable):
    """There is TLS, and no agreement about it."""


class Denied(Unreachable):
    """The user may not open the socket."""


class PlainHttp(Unreachable):
    """The address does not speak TLS."""


class SpeaksTls(Unreachable):
    """The address speaks TLS, not plain HTTP."""


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


class WrongService(Refused):
    """The path names none of the services of the proxy, which are ``names``."""

    def __init__(self, detail: str, names: tuple[str, ...]) -> None:
        super().__init__(404, detail)
        self.names = names


class ServiceRemoved(Refused):
    """A reload has removed the service."""


class NotAdmin(Exception):
    """The server at this address is not the admin API; ``str`` is what it is, as far as known."""


class TrafficPort(NotAdmin):
    """The address is the traffic port of a canaryproxy."""


class OtherVersion(NotAdmin):
    """The server is the admin API of another version, which is ``str``."""


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

    Every method raises ``Unreachable``, ``NotAdmin`` or ``Refused``. ``token`` is sent to http(s) addresses
    only. ``service`` is the one whose release is meant; without it, the only one. ``any_version`` is for what
    all versions of the admin API have.
    """

    def __init__(
        self,
        address: Address,
        token: str | None = None,
        *,
        service: str | None = None,
        any_version: bool = False,
    ) -> None:
        self.address = address
        self.service = service
        self._release = "/v1" if service is None else f"/v1/services/{quote(service, safe='')}"
        self._base = address.url or "http://localhost"
        self._any_version = any_version
        self._authorization: dict[str, str] = {}
        if token is not None and address.url is not None:
            self._authorization["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None
        self._known = False

    async def __aenter__(self) -> Client:
        path = self.address.socket
        connector = None if path is None else aiohttp.UnixConnector(path)
        headers = {"Accept": "application/json", "User-Agent": "canaryproxy"}
        self._session = aiohttp.ClientSession(connector=connector, headers=headers)
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
        """Return the release document. One without a known state is not from the admin API."""
        found = await self._send("GET", f"{self._release}/release")
        if found.body.get("state") not in _STATES:
            raise NotAdmin("it returns no known state of a release")
        return found

    async def acts(
        self, weight: float | None = None, metric: str | None = None, now: bool | None = None
    ) -> Response:
        """Return the previews of all acts, with these values."""
        given = {"weight": weight, "metric": metric, "now": "true" if now else None}
        query = {key: str(value) for key, value in given.items() if value is not None}
        found = await self._send("GET", f"{self._release}/acts", query=query)
        if not isinstance(found.body.get("acts"), list):
            raise NotAdmin("it returns no known acts")
        return found

    async def config(self) -> Response:
        """Return the configuration, whose ``ETag`` is a precondition of ``reload``."""
        return await self._send("GET", "/v1/config", authorized=True)

    async def put_config(
        self, text: str, etag: str | None, *, dry_run: bool, by: str, reason: str | None
    ) -> Response:
        """Put a text into the configuration file and in force; with ``dry_run`` only return the effect."""
        query = (
            {"by": by}
            | ({"dry_run": "true"} if dry_run else {})
            | ({} if reason is None else {"reason": reason})
        )
        return await self._send(
            "PUT", "/v1/config", query=query, text=text, etag=etag, authorized=True
        )

    async def table(
        self, name: Literal["endpoints", "routes", "overview", "services"]
    ) -> dict[str, Any]:
        """Return the figures of each endpoint or route, each row of the overview, or each service."""
        base = "/v1" if name in ("overview", "services") else self._release
        found = (await self._send("GET", f"{base}/{name}")).body
        if not isinstance(found.get(name), list):
            raise NotAdmin(f"it returns no known {name}")
        return found

    async def history(self, after: int | None, limit: int) -> list[dict[str, Any]]:
        """Return records, oldest first: those after a number, or the newest."""
        query = {"limit": str(limit)} | ({} if after is None else {"after": str(after)})
        found = (await self._send("GET", f"{self._release}/history", query=query)).body.get(
            "records"
        )
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    async def operate(self, name: str, body: Mapping[str, Any], etag: str | None) -> Response:
        """Carry out an operation, on the condition that nothing has changed since ``etag``.

        ``name`` is start, pause, resume, promote, abort, reset, accept, trip, drill, weight or reload.
        """
        of_release = self._release
        method, path = {
            "weight": ("PUT", f"{of_release}/weight"),
            "reload": ("POST", "/v1/reload"),
        }.get(name, ("POST", f"{of_release}/release/{name}"))
        timeout = _DRILL_TIMEOUT if name == "drill" else TIMEOUT
        return await self._send(
            method, path, body=body, etag=etag, timeout=timeout, authorized=True
        )

    async def stream(self, after: int | None) -> AsyncIterator[Message]:
        """Yield the events of the stream until it ends, beginning with the records after a number."""
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        parser = Parser()
        try:
            async with self._request(
                "GET", f"{self._release}/stream", headers=headers, timeout=None, silence=_SILENCE
            ) as response:
                self._check_peer(response)
                if response.status != 200:
                    raise await _problem(response)
                if response.content_type != "text/event-stream":
                    raise Refused(404, "the address has no event stream")
                async for chunk in response.content.iter_any():
                    for message in parser.feed(chunk):
                        yield message
        except (aiohttp.ClientError, OSError, TimeoutError, TooLong) as error:
            raise await self._failure(error) from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        text: str | None = None,
        etag: str | None = None,
        timeout: float | None = None,
        authorized: bool = False,
    ) -> Response:
        """Send a request, with ``body`` as JSON or ``text`` as YAML.

        With ``authorized``, with the token, and only to a known peer.
        """
        headers = {} if etag is None else {"If-Match": etag}
        if authorized:
            await self.identify()
            headers |= self._authorization
        sent: dict[str, Any] = {"json": body}
        if text is not None:
            headers["Content-Type"] = "application/yaml"
            sent = {"data": text.encode()}
        try:
            async with self._request(
                method, path, headers=headers, timeout=timeout or TIMEOUT, params=query, **sent
            ) as response:
                self._check_peer(response)
                if response.status != 200:
                    raise await _problem(response)
                found = _object(await response.read())
                if found is None:
                    raise NotAdmin(_described(response))
                return Response(found, response.headers.get("ETag"))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise await self._failure(error) from error

    async def identify(self) -> None:
        """Make sure that the admin API is at the address, by a request that changes nothing anywhere."""
        if self._known:
            return
        try:
            async with self._request("GET", "/livez", timeout=TIMEOUT) as response:
                self._check_peer(response)
                await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise await self._failure(error) from error

    async def _failure(self, error: Exception) -> Unreachable | NotAdmin:
        """Return what an exception of aiohttp means, which may depend on what else is at the address."""
        url = self.address.url or ""
        no_http = isinstance(error, aiohttp.ClientResponseError)
        asks = not self._known and url.startswith("http://") and (no_http or _is_closed(error))
        if asks and await _speaks_tls(url):
            return SpeaksTls("it speaks TLS")
        return NotAdmin("it does not speak HTTP") if no_http else _unreachable(error)

    def _check_peer(self, response: aiohttp.ClientResponse) -> None:
        """Raise ``NotAdmin`` unless the response is one of this version of the admin API."""
        version = response.headers.get(API_HEADER)
        if version is None and response.headers.get("Server") == "canaryproxy":
            version = "0"  # before there was the header
        if version is None:
            if "canaryproxy" in response.headers.get("Via", ""):
                raise TrafficPort("it forwards requests")
            raise NotAdmin(_described(response))
        if version != API_VERSION and not self._any_version:
            raise OtherVersion(version)
        self._known = True

    def _request(
        self,
        method: str,
        path: str,
        *,
        timeout: float | None,
        silence: float | None = None,
        **more: Any,
    ) -> Any:
        assert self._session is not None
        limits = aiohttp.ClientTimeout(timeout, sock_connect=_CONNECT_TIMEOUT, sock_read=silence)
        return self._session.request(
            method, self._base + path, allow_redirects=False, timeout=limits, **more
        )


def _described(response: aiohttp.ClientResponse) -> str:
    """``it responds with 405 as nginx/1.22.1``."""
    server = response.headers.get("Server")
    return f"it responds with {response.status}" + ("" if server is None else f" as {server}")


async def _problem(response: aiohttp.ClientResponse) -> Refused | NotAdmin:
    """Return the problem in a response (RFC 9457)."""
    found = _object(await response.read())
    if found is None or not isinstance(found.get("detail"), str):
        return NotAdmin(_described(response))
    names = found.get("services")
    if response.status == 404 and isinstance(names, list):
        return WrongService(found["detail"], tuple(one for one in names if isinstance(one, str)))
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
        why = getattr(error.certificate_error, "verify_message", "")
        return HandshakeFailed(f"its certificate is not trusted: {why}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", None) or ""
        if "ALERT" in reason or reason == "UNSUPPORTED_PROTOCOL":  # it speaks TLS, not ours
            return HandshakeFailed(f"TLS handshake failed: {reason.lower().replace('_', ' ')}")
        return PlainHttp("it does not speak TLS")
    if number == errno.EACCES:
        return Denied(os.strerror(number))
    if number in (errno.ECONNREFUSED, errno.ENOENT):
        return NobodyListens(os.strerror(number))
    if isinstance(number, int) and number > 0:
        return Unreachable(os.strerror(number))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unreachable(error.os_error.strerror or "unknown host")
    if _is_closed(error):
        return Unreachable("the connection was closed")
    return Unreachable(str(error) or type(error).__name__)


def _is_closed(error: Exception) -> bool:
    return isinstance(
        error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError)
    ) or isinstance(error.__cause__, ConnectionResetError)


async def _speaks_tls(url: str) -> bool:
    """Return whether a TLS handshake succeeds at the address. Nothing else is sent."""
    at = urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_HANDSHAKE):
            _, writer = await asyncio.open_connection(at.hostname, at.port or 80, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
