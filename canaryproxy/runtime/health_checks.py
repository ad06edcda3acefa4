"""Active health checks: who is checked when, and who is out of service for failing.

One task per endpoint, in the control plane only, for all workers. The endpoints are those of the data path:
each address of a name, once it is known. A check is ``proxy.health_check``; what a row of them means is
``measure.health``. Checks are no requests and no trials, and they are in no access log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from canaryproxy.config import Config, Endpoint, Variant
from canaryproxy.config import Health as Rules
from canaryproxy.control.outs import Outs
from canaryproxy.measure.endpoint_cells import MOST_ENDPOINTS
from canaryproxy.measure.health import Health
from canaryproxy.measure.resolved import Addresses, expand, names
from canaryproxy.measure.routing import VARIANTS
from canaryproxy.measure.shared_memory import CHECK
from canaryproxy.proxy.health_check import HealthCheck
from canaryproxy.tls.contexts import ContextCache

_SOONEST: Final = 0.9
"""Checks come after an interval times a number from here to 1, so that proxies do not check in step."""
_FIRST_PER_SECOND: Final = 1000
"""First checks of new endpoints."""
_AT_ONCE: Final = MOST_ENDPOINTS
"""Checks of a variant at a time: endpoints that hang delay no other until there are so many."""
_DRAW: Final = random.Random()  # noqa: S311 - for times only
_TELL_WITHIN: Final = 0.02
"""Seconds until workers are sent a change, together with those that follow it."""


@dataclass(slots=True)
class _Checked:
    """One endpoint."""

    rules: Rules
    health: Health
    check: HealthCheck
    task: asyncio.Task[None] = field(init=False)


_Checks = dict[tuple[int, Endpoint], _Checked]


class HealthChecks:
    """Checks the endpoints of a configuration; what fails goes into ``outs``. Needs a running loop."""

    def __init__(self, outs: Outs, addresses: Addresses) -> None:
        self._outs = outs
        self._addresses = addresses
        self._config: Config | None = None
        self._files: Mapping[str, bytes] = {}
        self._contexts = ContextCache()
        self._checked: _Checks = {}
        self._slots = tuple(asyncio.Semaphore(_AT_ONCE) for _ in VARIANTS)
        self._telling: asyncio.TimerHandle | None = None
        self.counts = tuple([0, 0] for _ in VARIANTS)
        """Checks of each variant that have failed and that have passed."""

    def configure(self, config: Config, files: Mapping[str, bytes]) -> None:
        """Check what this configuration says from now on. An endpoint that stays keeps its state."""
        is_first = self._config is None
        self._config, self._files = config, files
        self._contexts = ContextCache(self._contexts)
        self._renew(config, is_first=is_first)

    def resolve(self, addresses: Addresses) -> None:
        """Check these addresses in place of the names from now on."""
        self._addresses = dict(addresses)
        if self._config is not None:
            self._renew(self._config, is_first=False)

    def stop(self) -> None:
        """Check no more; what is out stays out."""
        self._config, checked, self._checked = None, self._checked, {}
        for one in checked.values():
            one.task.cancel()
        self._forget_telling()

    def _renew(self, config: Config, *, is_first: bool) -> None:
        before, self._checked = self._checked, {}
        for at, variant in enumerate((config.variants.stable, config.variants.canary)):
            if variant is not None and variant.health is not None:
                self._renew_variant(at, variant, variant.health, before, is_first=is_first)
        for one in before.values():
            one.task.cancel()
        self._tell()

    def _renew_variant(
        self, at: int, variant: Variant, rules: Rules, before: _Checks, *, is_first: bool
    ) -> None:
        """Check the endpoints of a variant; take those whose checks go on out of ``before``."""
        tls, loop = variant.tls, asyncio.get_running_loop()
        unknown = {str(one) for one in names(variant.endpoints)} - self._addresses.keys()
        for endpoint in expand(variant.endpoints, self._addresses):
            key, url = (at, endpoint), str(endpoint)
            if url in unknown:
                continue  # it is about to be looked up
            known = before.get(key)
            if known is not None and known.rules == rules:
                one = before.pop(key)
            else:
                down = is_first and self._outs.was_out(CHECK, at, url)
                health = Health(rules.rise, rules.fall, down=down)
                if known is not None:
                    health = known.health
                    health.rise, health.fall = rules.rise, rules.fall
                one = _Checked(rules, health, HealthCheck(endpoint, rules, loop))
                one.task = loop.create_task(self._run(at, one))
            context = self._contexts.client(endpoint, tls, self._files)
            one.check.secure(context, None if tls is None else tls.server_name)
            self._checked[key] = one

    async def _run(self, variant: int, one: _Checked) -> None:
        draw, interval = _DRAW, one.rules.interval
        await asyncio.sleep(draw.random() * min(len(self._checked) / _FIRST_PER_SECOND, interval))
        while True:
            async with self._slots[variant]:
                began = monotonic()
                failure = await one.check.ask()
            self.counts[variant][not failure] += 1
            if one.health.observe(failure) and self._telling is None:
                loop = asyncio.get_running_loop()
                self._telling = loop.call_later(_TELL_WITHIN, self._tell)
            pause = interval * draw.uniform(_SOONEST, 1.0)
            await asyncio.sleep(max(began + pause - monotonic(), 0.0))

    def _tell(self) -> None:
        """Make the workers send no requests to what is down."""
        self._forget_telling()
        causes: tuple[dict[str, str], ...] = tuple({} for _ in VARIANTS)
        for (variant, endpoint), one in self._checked.items():
            if not one.health.up:
                causes[variant][str(endpoint)] = one.health.cause
        for variant, found in enumerate(causes):
            self._outs.put(CHECK, variant, found)

    def _forget_telling(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
