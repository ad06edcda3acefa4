"""The services of another proxy, read over its admin address without a token."""

from __future__ import annotations

import os
from typing import TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from canaryproxy import API_HEADER, API_VERSION
from canaryproxy.config.addresses import Endpoint
from canaryproxy.control.brief_view import (
    Attention,
    attention,
    config_problems,
    problems_of,
)
from canaryproxy.control.process import DEFAULT
from canaryproxy.control.release_view import CircuitState, Count, ReleaseState
from canaryproxy.release.summary import Kind

MOST = 4 << 20
"""Bytes of a response."""


class _Part(BaseModel):
    """A part of a response, as far as it is read; another version may have more in it."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class StepReport(_Part):
    weight: float
    bake: float


class CohortReport(_Part):
    name: str
    weight: float


class ReplicaReport(_Part):
    group: str
    replica: str
    replicas: Count
    leads: bool


class ServiceReport(_Part):
    name: str
    attention: Attention
    release: str | None
    state: ReleaseState
    since: float | None
    step: Count
    steps: Count
    weight: float
    cohorts: tuple[CohortReport, ...] = ()
    share: str | None = None
    circuit: CircuitState
    verdict: Kind
    said: str
    problems: tuple[str, ...]
    fleet: ReplicaReport | None
    plan: tuple[StepReport, ...]


class ProxyReport(_Part):
    """``/v1/services`` of a proxy."""

    services: tuple[ServiceReport, ...]
    environment: str | None
    host: str
    version: str
    problems: tuple[str, ...]


class _Circuit(_Part):
    state: CircuitState
    since: float


class _Verdict(_Part):
    kind: Kind
    said: str


class _Config(_Part):
    error: str | None
    restart_needed: tuple[str, ...]


class _Fleet(ReplicaReport):
    connected: bool
    error: str | None
    conflict: str | None


class _Release(_Part):
    """``/v1/release`` of a version without services."""

    release: str | None
    state: ReleaseState
    since: float
    step: Count
    steps: tuple[StepReport, ...]
    weight: float
    cohorts: tuple[CohortReport, ...] = ()
    share: str | None = None
    ready: bool
    circuit: _Circuit
    verdict: _Verdict
    unsaved: str | None
    config: _Config
    fleet: _Fleet | None = None
    environment: str | None = None
    host: str
    version: str

    def report(self) -> ProxyReport:
        """Return the same as the one service of a proxy."""
        fleet = None if self.fleet is None else self.fleet.model_dump()
        problems = problems_of(self.unsaved, fleet)
        kind = self.verdict.kind
        opened = self.state == "tripped"
        only = ServiceReport(
            name=DEFAULT,
            attention=attention(self.state, kind, ready=self.ready, problems=problems),
            release=self.release,
            state=self.state,
            since=(self.circuit.since if opened else self.since) or None,
            step=self.step,
            steps=len(self.steps),
            weight=self.weight,
            cohorts=self.cohorts,
            share=self.share,
            circuit=self.circuit.state,
            verdict=kind,
            said=self.verdict.said,
            problems=tuple(problems),
            fleet=self.fleet,
            plan=self.steps,
        )
        return ProxyReport(
            services=(only,),
            environment=self.environment,
            host=self.host,
            version=self.version,
            problems=tuple(config_problems(self.config.error, self.config.restart_needed)),
        )


class Unread(Exception):
    """Why a proxy cannot be read."""


async def read(address: Endpoint) -> ProxyReport:
    """Return what the proxy at an address says.

    Raises ``Unread`` if it is no proxy or cannot be understood, and what aiohttp raises.
    """
    connector = aiohttp.UnixConnector(address.path) if address.path else None
    base = "http://localhost" if address.path else str(address)
    headers = {"Accept": "application/json", "User-Agent": "canaryproxy"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        body = await _get(session, f"{base}/v1/services")
        if body is not None:
            return _understood(ProxyReport, body)
        body = await _get(session, f"{base}/v1/release")  # of a version without services
    if body is None:
        raise Unread("it responds with 404")
    return _understood(_Release, body).report()


P = TypeVar("P", bound=_Part)


def _understood(kind: type[P], body: bytes) -> P:
    try:
        return kind.model_validate_json(body)
    except ValidationError:
        raise Unread("its response is not understood") from None


async def _get(session: aiohttp.ClientSession, url: str) -> bytes | None:
    """Return the body of a response, ``None`` for a 404. Raises ``Unread``."""
    async with session.get(url, allow_redirects=False) as response:
        version = response.headers.get(API_HEADER)
        if version is None:
            raise Unread("not an admin address of canaryproxy (is it the traffic port?)")
        if version != API_VERSION:
            raise Unread(f"another version of the admin API: {version[:20]}, not {API_VERSION}")
        if response.status == 404:
            return None
        if response.status == 421:
            raise Unread("it does not serve this name: add the name to admin.hosts there")
        if response.status != 200:
            raise Unread(f"it responds with {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MOST:
                raise Unread("its response is too large")
        return bytes(body)


def in_words(error: Exception) -> str:
    """Return what an exception of aiohttp means."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "unknown host name"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "TLS handshake failed (is it plain HTTP?)"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        return "the connection was closed"
    return "it does not speak HTTP"
