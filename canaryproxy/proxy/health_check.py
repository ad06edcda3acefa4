"""One active health check: a request on a connection of its own, and what its response says.

It connects as requests do (``Dialer``) and reads the response by the same rules (``UpstreamConnection``), so
what passes could serve them. Of a GET only the head of the response is read; redirects are not followed. A
check of gRPC calls ``grpc.health.v1.Health/Check``.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from canaryproxy.config import Endpoint as EndpointConfig
from canaryproxy.config import Health
from canaryproxy.config.addresses import TcpAddress
from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.config.units import duration_text
from canaryproxy.http1.grpc import (
    OK,
    SERVING,
    SERVING_NAMES,
    health_request,
    serving_status,
    status_of_response,
)
from canaryproxy.http1.head_cache import ResponseHeadCache
from canaryproxy.http1.request import Request, RequestFields
from canaryproxy.http1.response import Response, ResponseParser
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.failures import describe
from canaryproxy.proxy.dialer import Dialer
from canaryproxy.proxy.failures import detail_of, reason_of
from canaryproxy.proxy.http2_upstream import Http2Upstream
from canaryproxy.proxy.interfaces import ConnectionSource, Receiver, SharedConnection, UpstreamLink
from canaryproxy.proxy.outbox import Outbox
from canaryproxy.proxy.upstream_connection import UpstreamConnection

_LONGEST_ANSWER: Final = 1024
"""Bytes of a response of gRPC that are read."""
_AGENT: Final = "canaryproxy-health-check"
_PARSER: Final = ResponseHeadCache(ResponseParser(), enabled=False)


def _request(method: bytes, length: int = 0) -> Request:
    """Return what a connection has to know of the request."""
    request = Request()
    request.method = method
    request.fields = RequestFields(())
    request.fields.length = length
    request.never_indexed = frozenset()
    return request


class HealthCheck(ConnectionSource):
    """Checks one endpoint by the rules of its variant."""

    __slots__ = ("_content", "_dialer", "_head", "_is_http2", "_loop", "_rules")

    def __init__(
        self, endpoint: EndpointConfig, rules: Health, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._rules = rules
        self._is_http2 = endpoint.is_http2
        self._loop = loop
        self._dialer = Dialer(endpoint, loop, self._link)
        host = rules.host or _host(endpoint)
        end = f"Host: {host}\r\nUser-Agent: {_AGENT}\r\n"
        self._content = b""
        if rules.grpc is None:
            line = f"GET {rules.path} HTTP/1.1\r\n"
            end += "Accept: */*\r\nConnection: close\r\n\r\n"
        else:
            self._content = health_request(rules.grpc)
            line = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\n"
            end += f"Content-Type: application/grpc\r\nContent-Length: {len(self._content)}\r\n"
            end += "TE: trailers\r\nConnection: TE, close\r\n\r\n"
        self._head = (line + end).encode()

    def secure(self, context: ssl.SSLContext | None, server_name: str | None) -> None:
        """Use this context from the next check on, as ``Dialer.secure`` does."""
        self._dialer.secure(context, server_name)

    async def ask(self) -> str:
        """Check once; return why the check failed, or nothing if it passed."""
        rules = self._rules
        wanted = "connection"
        try:
            async with asyncio.timeout(rules.timeout):
                link = await self._dialer.dial()
                wanted = "response"
                status, failure = await self._respond(link)
        except TimeoutError as error:
            if error.errno:
                return describe(reason_of(error), detail_of(error, rules.timeout))
            return f"no {wanted} within {duration_text(rules.timeout)}"
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            return describe(reason_of(error), detail_of(error, rules.timeout))
        if failure or str(status) in rules.statuses or f"{status // 100}xx" in rules.statuses:
            return failure
        return f"status {status}, wanted {', '.join(rules.statuses)}"

    async def _respond(self, link: UpstreamLink) -> tuple[int, str]:
        """Return the status of the response, or 0 and why there is none."""
        if link.transport.is_closing():
            return 0, describe(Reason.RESET, "closed right after it was opened")
        kind, content = _Answer if self._rules.grpc is None else _GrpcAnswer, self._content
        answer = kind(self._loop.create_future(), len(content))
        link.send(answer, self._head)
        if content:
            link.write(content)
            link.end_request(b"")
        try:
            return await answer.result
        finally:
            if answer.result.cancelled():
                link.close()
            else:
                link.end()
            link.transport.close()  # of HTTP/2 the link is but a stream

    def _link(self) -> UpstreamLink | SharedConnection:
        if self._is_http2:
            return Http2Upstream(self, _PARSER, Outbox())
        return UpstreamConnection(self, _PARSER)

    def release(self, link: UpstreamLink) -> None:  # noqa: ARG002
        return

    def lost(self, link: UpstreamLink) -> None:  # noqa: ARG002
        return


class _Answer(Receiver):
    """Waits for the head of a response."""

    __slots__ = ("result",)

    def __init__(self, result: asyncio.Future[tuple[int, str]], length: int) -> None:
        self.request = _request(b"POST" if length else b"GET", length)
        self.result = result

    def response_head(
        self,
        response: Response,
        body: bytes,  # noqa: ARG002
        *,
        complete: bool,  # noqa: ARG002
        trailers: bytes = b"",  # noqa: ARG002
    ) -> None:
        self._done(response.status, "")

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:  # noqa: ARG002
        return

    def upstream_failed(
        self,
        reason: Reason,
        detail: str = "",
        *,
        stale: bool = False,  # noqa: ARG002
        unprocessed: bool = False,  # noqa: ARG002
    ) -> None:
        self._done(0, describe(reason, detail))

    def _done(self, status: int, failure: str) -> None:
        if not self.result.done():
            self.result.set_result((status, failure))


class _GrpcAnswer(_Answer):
    """Waits for a response of gRPC, and reads it."""

    __slots__ = ("_body", "_response")

    def __init__(self, result: asyncio.Future[tuple[int, str]], length: int) -> None:
        super().__init__(result, length)
        self._body = b""

    def response_head(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        self._response = response
        self.response_body(body, complete=complete, trailers=trailers)

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        self._body += data
        if complete or len(self._body) > _LONGEST_ANSWER:
            self._done(OK, self._failure(trailers))

    def _failure(self, trailers: bytes) -> str:
        """Say why the check failed; nothing if the service is up."""
        response = self._response
        if response.status != OK:
            return f"status {response.status}, wanted a response of gRPC"
        status = status_of_response(response, trailers)
        found = "no grpc-status" if status is None else status.name
        if status == GrpcStatus.OK:
            try:
                found = SERVING_NAMES[serving_status(self._body)]
            except ValueError:
                found = "a response that is no HealthCheckResponse"
        return "" if found == SERVING_NAMES[SERVING] else f"{found}, wanted SERVING"


def _host(endpoint: EndpointConfig) -> str:
    """Return the Host field for an endpoint: the name in the configuration, not the address behind it."""
    if endpoint.path:
        return "localhost"
    name = endpoint.host.rstrip(".")
    authority = str(TcpAddress(name, endpoint.port))
    if endpoint.port == endpoint.default_port:
        return authority.rpartition(":")[0]
    return authority
