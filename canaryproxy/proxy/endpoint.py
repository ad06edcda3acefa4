"""One endpoint: its connections, and whether it takes new ones.

An endpoint that fails to take connections is ejected: it gets no requests until a probe connection, tried
after a growing pause, succeeds. No request is spent on finding out that it is still down, unless no other
endpoint is left (``Pool``). The control plane may take it out for reasons of its own (``Standing``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

from canaryproxy.config import Endpoint as EndpointConfig
from canaryproxy.config import Limits
from canaryproxy.measure import endpoint_cells
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.slowness import FAR, NEVER
from canaryproxy.proxy.dialer import Dialer
from canaryproxy.proxy.failures import detail_of, reason_of
from canaryproxy.proxy.idle_links import IdleLinks
from canaryproxy.proxy.interfaces import Caller, ConnectionSource, SharedConnection, UpstreamLink

EJECT_AFTER: Final = 3
"""Failures to connect in a row after which an endpoint is ejected."""
FIRST_PAUSE: Final = 0.25
"""Seconds until an ejected endpoint is probed; doubles with every failed probe."""
LONGEST_PAUSE: Final = 5.0
"""Longest pause between probes in seconds."""


class Standing:
    """How an endpoint stands in its pool."""

    __slots__ = ("by_hash", "out", "returned", "share", "was_up")

    def __init__(self) -> None:
        self.by_hash = False
        """Whether a sticky key chooses the endpoint, so that what it does is counted by key, too."""
        self.out = 0
        """Why the control plane has taken it out of service: bits of ``CHECK`` and ``OUTLIER``."""
        self.was_up = True
        """Neither ejected nor out when its pool looked last."""
        self.returned = 0.0
        """When it came back (monotonic seconds)."""
        self.share = 1.0
        """Of the requests that are its due; below 1 while it starts."""


class Endpoint(ConnectionSource):
    """One endpoint of a variant: idle connections, callers that wait for one, ejection and probes.

    ``create_link`` makes the protocol of a new connection. Over HTTP/2 a connection is opened only once all
    those that there are take no more requests; until it is open, its callers wait.
    """

    __slots__ = (
        "_dialer",
        "_loop",
        "_pause",
        "_tasks",
        "_timer",
        "_waiting",
        "active",
        "authority",
        "closed",
        "config",
        "ejected",
        "errno",
        "failures",
        "identity",
        "idle",
        "limits",
        "marks",
        "max_idle",
        "on_change",
        "on_open",
        "open",
        "reason",
        "shared",
        "slow_from",
        "standing",
    )

    def __init__(
        self,
        config: EndpointConfig,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        create_link: Callable[[Endpoint], UpstreamLink | SharedConnection],
    ) -> None:
        self.config = config
        self.authority = config.authority
        self.active = 0
        """Requests that hold or wait for a connection of this endpoint."""
        self.idle = IdleLinks()
        """Connections to use again."""
        self.shared: list[SharedConnection] = []
        """Connections of HTTP/2 that take requests."""
        self.open = 0
        """Connections open or being opened."""
        self.failures = 0
        """Failures to connect since the last success."""
        self.ejected = False
        self.slow_from = NEVER
        """Bucket of the time to the first byte from which ``add_slow`` is to be called."""
        self.standing = Standing()
        self.identity = endpoint_cells.identity(str(config))
        """Names it in shared memory."""
        self.marks: list[int] = []
        """What became of the attempts of requests here: offsets of ``endpoint_cells``, to be counted."""
        self.reason = Reason.CONNECT_FAILED
        """Of the last failure; for the log of the control plane."""
        self.errno = 0
        """Of the last failure, if the system gave one."""
        self.closed = False
        """It is no longer in the configuration: idle connections close, and no probe is sent."""
        self.limit(limits)
        self.on_change: Callable[[], None] = _nothing
        """Called when the endpoint is ejected or comes back."""
        self.on_open: Callable[[Caller], None] | None = None
        """Called in place of dialling, for tests whose connections are in memory."""
        self._loop = loop
        self._dialer = Dialer(config, loop, lambda: create_link(self))
        self._pause = FIRST_PAUSE
        self._waiting: deque[Caller] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        """Of the next probe."""

    def limit(self, limits: Limits) -> None:
        """Keep within these limits from now on."""
        self.limits = limits
        self.max_idle = limits.max_endpoint_idle

    def secure(self, context: ssl.SSLContext | None, server_name: str | None) -> None:
        """Use this context for new connections, as ``Dialer.secure`` does."""
        self._dialer.secure(context, server_name)

    @property
    def up(self) -> bool:
        """It is neither ejected nor taken out of service."""
        return not self.ejected and not self.standing.out

    @property
    def tries(self) -> bool:
        """Whether a connection is being opened, and none is idle."""
        return bool(self._tasks) and not self.idle and not self.shared

    @property
    def _opens_shared(self) -> bool:
        """Whether a connection of HTTP/2 is being opened."""
        return self.config.is_http2 and self.open > len(self.shared)

    def acquire(self, caller: Caller, *, fresh: bool = False) -> None:
        """Give the caller a connection: an idle one at once, else when one is opened or released.

        ``fresh`` asks for a new connection, because an idle one just turned out to be stale.
        """
        link = self._shared_link() if self.shared else None
        if link is None and not fresh:
            link = self.idle.take()
        if link is not None:
            caller.connected(link)
        elif self.open < self.limits.max_endpoint_connections and not self._opens_shared:
            self._open(caller)
        elif len(self._waiting) < self.limits.max_requests:
            self._waiting.append(caller)
        else:
            caller.connect_failed(self, Reason.OVERFLOW)

    def release(self, link: UpstreamLink) -> None:
        """Take back a connection that can carry another request."""
        while self._waiting:
            caller = self._waiting.popleft()
            if caller.wants(self):
                caller.connected(link)
                return
        idle = self.idle
        if self.closed or link.frames or len(idle.others) >= self.max_idle:
            link.close()
        elif idle.last is None:  # the plain case of ``put``
            idle.last = link
        elif len(idle.others) + 1 < self.max_idle:
            idle.put(link)
        else:
            link.close()

    def lost(self, link: UpstreamLink) -> None:
        """Forget a connection that is closed, and open one for a caller that waits."""
        self.open -= 1
        self.idle.remove(link)
        while self._waiting and self.open < self.limits.max_endpoint_connections:
            caller = self._waiting.popleft()
            if caller.wants(self):
                self._open(caller)

    def _shared_link(self) -> UpstreamLink | None:
        for connection in self.shared:
            link = connection.link()
            if link is not None:
                return link
        return None

    def opened(self, connection: SharedConnection) -> None:
        self.shared.append(connection)

    def has_room(self) -> None:
        """Give callers that wait what connections take, and open one for the rest."""
        while self._waiting:
            if not self._waiting[0].wants(self):
                self._waiting.popleft()
                continue
            link = self._shared_link()
            if link is None:
                if self.open < self.limits.max_endpoint_connections and not self._opens_shared:
                    self._open(self._waiting.popleft())
                return
            self._waiting.popleft().connected(link)

    def retired(self, connection: SharedConnection) -> None:
        self.shared.remove(connection)
        self.open -= 1
        self.has_room()

    def failed(self, reason: Reason, errno: int = 0) -> None:
        """Count a failure to connect, or a new connection closed without a response; eject after three."""
        self.reason, self.errno = reason, errno
        self.failures += 1
        if self.failures >= EJECT_AFTER and not self.ejected and not self.closed:
            self.ejected = True
            self.on_change()
            self._timer = self._loop.call_later(self._pause, self._probe)

    def add_error(self, reason: Reason, key: bytes | None) -> None:
        """Count an attempt of a request, of a user with this key, that got no complete response."""
        self.marks.append(endpoint_cells.ERRORS + reason)
        self._add_failure(key)
        if reason != self.reason:
            self.reason, self.errno = reason, 0

    def add_status(self, status: int, failed: bool, key: bytes | None) -> None:
        """Count the status of a response, unless it is a plain 2xx: those are what is left."""
        if failed:
            self._add_failure(key)
        if not 200 <= status < 300:
            self.marks.append(endpoint_cells.class_of(status))

    def _add_failure(self, key: bytes | None) -> None:
        self.marks.append(endpoint_cells.FAILED)
        if self.standing.by_hash:
            cell = endpoint_cells.key_cell(key) % endpoint_cells.KEYS
            self.marks.append(endpoint_cells.FAILED_KEYS + cell)

    def add_slow(self, bucket: int, key: bytes | None) -> None:
        """Count a slow response to a user with this key."""
        cell = endpoint_cells.key_cell(key)
        self.marks.append(endpoint_cells.SLOW_KEYS + cell)
        if bucket >= FAR[self.slow_from]:
            self.marks.append(endpoint_cells.FAR_KEYS + cell)

    def sweep(self, now: float) -> None:
        """Close connections that have been idle for too long; ``now`` is in monotonic seconds."""
        oldest = now - self.limits.endpoint_idle_timeout
        while (link := self.idle.take_older(oldest)) is not None:
            link.close()
        for connection in self.shared.copy():
            connection.sweep(now, oldest)

    def close(self) -> None:
        """Close idle connections and keep no more; those in use close when they are released."""
        self.closed = True
        while (link := self.idle.take()) is not None:
            link.close()
        for connection in self.shared.copy():
            connection.retire()

    def probe_soon(self) -> None:
        """Probe it at once if it is ejected, and then as often as at first: others are back."""
        if self.ejected and self._timer is not None and not self.tries:
            self._timer.cancel()
            self._pause = FIRST_PAUSE
            self._probe()

    def _probe(self) -> None:
        if not self.closed:
            self._open(_Probe(self))

    def _readmit(self) -> None:
        self.failures = 0
        self._pause = FIRST_PAUSE
        if self.ejected:
            if self._timer is not None:
                self._timer.cancel()
            self.ejected = False
            self.on_change()

    def _probe_failed(self) -> None:
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if self.ejected and not self.closed:
            self._timer = self._loop.call_later(self._pause, self._probe)

    def _open(self, caller: Caller) -> None:
        self.open += 1
        if self.on_open is not None:
            self.on_open(caller)
            return
        task = self._loop.create_task(self._connect(caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, caller: Caller) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                link = await self._dialer.dial()
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            self.open -= 1
            reason, detail = reason_of(error), detail_of(error, self.limits.connect_timeout)
            self._connect_failed(caller, reason, detail, getattr(error, "errno", None) or 0)
            return
        if link.transport.is_closing():
            # The server closed it right after it was opened; ``lost`` is called for it.
            self._connect_failed(caller, Reason.RESET, "closed right after it was opened")
            return
        self._readmit()
        if caller.wants(self):
            caller.connected(link)
        else:
            self.release(link)
        if self.closed:
            self.close()
        else:
            self.has_room()

    def _connect_failed(self, caller: Caller, reason: Reason, detail: str, errno: int = 0) -> None:
        if not isinstance(caller, _Probe):
            self.failed(reason, max(errno, 0))  # those of DNS are negative
        callers = [caller]
        if self.config.is_http2 and not self.shared:
            callers += [one for one in self._waiting if one.wants(self)]
            self._waiting.clear()
        for one in callers:
            one.connect_failed(self, reason, detail)


def _nothing() -> None:
    """Ignore a change: the endpoint is in no pool yet."""


class _Probe(Caller):
    """Asks an ejected endpoint for a connection, in place of a request."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def wants(self, source: ConnectionSource) -> bool:  # noqa: ARG002
        return True

    def connected(self, link: UpstreamLink) -> None:
        self._endpoint.release(link)

    def connect_failed(
        self,
        source: ConnectionSource,  # noqa: ARG002
        reason: Reason,  # noqa: ARG002
        detail: str = "",  # noqa: ARG002
    ) -> None:
        self._endpoint._probe_failed()
