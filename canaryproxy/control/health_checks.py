"""Active health checks: asks each endpoint for a path and takes those that fail out of service.

One task per endpoint, in the control process only. Each check opens a connection of its own, sends a GET and
looks at the status; redirects are not followed. What a check means is ``measure.health``. Checks pass no data
path: they are no requests, no trials, and in no access log.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

import aiohttp
from yarl import URL

from canaryproxy.config import Config
from canaryproxy.config import Endpoint as EndpointConfig
from canaryproxy.config import Health as HealthConfig
from canaryproxy.config.units import duration_text
from canaryproxy.control.outs import Outs
from canaryproxy.measure.health import Health
from canaryproxy.measure.routing import VARIANTS
from canaryproxy.measure.shared_memory import CHECK
from canaryproxy.tls.contexts import client_context

_AGENT: Final = "canaryproxy-health-check"
_SOONEST: Final = 0.9
"""Checks come after an interval times a number from here to 1, so that proxies do not check in step."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What is checked, and how."""

    variant: int
    endpoint: EndpointConfig
    rules: HealthConfig
    tls: ssl.SSLContext | None
    server_name: str | None


class HealthChecks:
    """Checks the endpoints of a configuration; what fails goes into ``outs``. Needs a running loop."""

    def __init__(self, outs: Outs) -> None:
        self._outs = outs
        self._checked: dict[tuple[int, EndpointConfig], tuple[_Target, Health]] = {}
        self._tasks: dict[tuple[int, EndpointConfig], asyncio.Task[None]] = {}

    def configure(self, config: Config, files: Mapping[str, bytes]) -> None:
        """Check what this configuration says from now on. An endpoint that stays keeps its state."""
        before, self._checked = self._checked, {}
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}
        for at, variant in enumerate((config.variants.stable, config.variants.canary)):
            if variant is None or variant.health is None:
                continue
            rules, tls = variant.health, variant.tls
            https = any(one.scheme == "https" for one in variant.endpoints)
            context = client_context(tls, files) if https else None
            for endpoint in variant.endpoints:
                known = before.get((at, endpoint))
                down = self._outs.was_out(CHECK, at, str(endpoint))
                if known is not None and known[0].rules == rules:
                    health = known[1]
                else:
                    down = not known[1].up if known is not None else down
                    health = Health(rules.rise, rules.fall, down=down)
                name = None if tls is None else tls.server_name
                target = _Target(at, endpoint, rules, context, name)
                self._checked[at, endpoint] = target, health
        for key, (target, health) in self._checked.items():
            self._tasks[key] = asyncio.get_running_loop().create_task(self._run(target, health))
        self._tell()

    def stop(self) -> None:
        """Check no more; what is out stays out."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks = {}

    async def _run(self, target: _Target, health: Health) -> None:
        rules, spread = target.rules, random.Random()  # noqa: S311 - for times only
        await asyncio.sleep(spread.random() * min(rules.interval, 1.0) / 10)
        while True:
            began = monotonic()
            health.observe(await check(target.endpoint, rules, target.tls, target.server_name))
            self._tell()
            pause = rules.interval * spread.uniform(_SOONEST, 1.0)
            await asyncio.sleep(max(began + pause - monotonic(), 0.0))

    def _tell(self) -> None:
        for variant in range(len(VARIANTS)):
            causes = {
                str(endpoint): health.cause
                for (which, endpoint), (_, health) in self._checked.items()
                if which == variant and not health.up
            }
            self._outs.put(CHECK, variant, causes)


async def check(
    endpoint: EndpointConfig,
    rules: HealthConfig,
    tls: ssl.SSLContext | None,
    server_name: str | None,
) -> str:
    """Ask an endpoint once; return why the check failed, or nothing if it passed."""
    try:
        async with asyncio.timeout(rules.timeout):
            status = await _status(endpoint, rules, tls, server_name)
    except TimeoutError:
        return f"no response within {duration_text(rules.timeout)}"
    except aiohttp.ClientConnectorCertificateError as error:
        return f"certificate: {error.certificate_error}"
    except aiohttp.ClientConnectorError as error:
        return f"cannot connect: {_words(error.os_error)}"
    except aiohttp.ServerDisconnectedError:
        return "the connection was closed without a response"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"no valid response: {_words(error)}"
    if any(str(status) == one or f"{status // 100}xx" == one for one in rules.statuses):
        return ""
    return f"status {status}, wanted {', '.join(rules.statuses)}"


async def _status(
    endpoint: EndpointConfig,
    rules: HealthConfig,
    tls: ssl.SSLContext | None,
    server_name: str | None,
) -> int:
    connector: aiohttp.BaseConnector
    if endpoint.scheme == "unix":
        base, connector = "http://localhost", aiohttp.UnixConnector(endpoint.path, force_close=True)
    else:
        base, connector = str(endpoint), aiohttp.TCPConnector(force_close=True, use_dns_cache=False)
    headers = {"User-Agent": _AGENT, "Connection": "close"}
    if rules.host is not None:
        headers["Host"] = rules.host
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(
            URL(base + rules.path, encoded=True),
            headers=headers,
            allow_redirects=False,
            ssl=True if tls is None else tls,
            server_hostname=server_name if endpoint.scheme == "https" else None,
        ) as response,
    ):
        return response.status


def _words(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return text.splitlines()[0].rstrip(":") if text else type(error).__name__
