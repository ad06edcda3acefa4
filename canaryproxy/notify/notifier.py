"""Deliveries: a worker for each webhook, so that a slow one holds up nobody.

A message is sent until the receiver takes it (2xx) or refuses it (4xx; a redirect is a refusal too), or
until it was tried ``ATTEMPTS`` times or is ``MAX_AGE`` old. What a worker tries to deliver stays the first:
the order of a webhook's messages is that of the history.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from canaryproxy.config import Webhook
from canaryproxy.notify import message, signature
from canaryproxy.notify.backlog import Backlog
from canaryproxy.notify.outgoing import Client, Reply, Unanswered, shown

_log = logging.getLogger(__name__)

WAITING = 100
"""Messages that wait for one webhook."""
ATTEMPTS = 20
MAX_AGE = 3600.0
"""Seconds after which a message that failed is not tried again."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds: the bounds of a pause before its jitter, doubled with each attempt."""
LONGEST_RETRY_AFTER = 300.0
"""Seconds that a receiver may ask to wait."""

_TRY_AGAIN = frozenset({408, 425, 429})


class Clock:
    """The time of a notifier. Tests bring their own."""

    def time(self) -> float:
        """Return seconds since the epoch, for signatures."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never jump, for ages."""
        return time.monotonic()

    def jitter(self) -> float:
        """Return the part of a pause that is waited: evenly from 0 to 1."""
        return random.random()  # noqa: S311 - it spreads, and hides nothing

    async def pause(self, seconds: float, cut: asyncio.Event) -> None:
        """Return after ``seconds``, or when ``cut`` is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await cut.wait()


@dataclass(frozen=True, slots=True)
class Message:
    """What waits to be delivered."""

    id: str
    what: str
    body: bytes
    told: float
    """Seconds of ``Clock.monotonic``."""

    @property
    def urgent(self) -> bool:
        """A trip is not dropped for anything less."""
        return self.what == "tripped"


class _Counts:
    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        self.dropped = 0


class _Worker:
    """Delivers to one webhook."""

    def __init__(self, at: int, webhook: Webhook, clock: Clock) -> None:
        self.webhook = webhook
        self.counts = _Counts()
        self._clock = clock
        self._secret = signature.Secret(webhook)
        self._backlog: Backlog[Message] = Backlog(WAITING)
        self._current: Message | None = None
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        # The path of a chat's webhook is its password: the place in the configuration tells which it is.
        self._name = f"notify[{at}] {shown(webhook.webhook, path=False)}"

    def wants(self, record: Mapping[str, Any]) -> bool:
        """Tell whether the webhook is to hear of a record."""
        events = self.webhook.events
        return record.get("what") in events if events else message.is_notable(record)

    def put(self, item: Message) -> None:
        """Deliver this after what waits already."""
        closing = self._closing.is_set()
        dropped = item if closing else self._backlog.put(item)
        if dropped is not None:
            self.counts.dropped += 1
            why = "the end has come" if closing else "too much waits"
            _log.warning("%s: %s is not delivered: %s", self._name, dropped.what, why)
        self._arrived.set()

    async def run(self, client: Client) -> None:
        """Deliver until ``close`` and nothing waits."""
        while True:
            self._current = self._backlog.take()
            if self._current is not None:
                await self._deliver(client, self._current)
            elif self._closing.is_set():
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def close(self) -> None:
        """Take nothing more, and try what waits once more."""
        self._closing.set()
        self._arrived.set()

    def give_up(self) -> None:
        """Count what was not delivered, when nobody works on it any more."""
        left = self._backlog.clear() + (self._current is not None)
        self._current = None
        if left:
            self.counts.dropped += left
            _log.warning("%s: %d messages are not delivered: the end has come", self._name, left)

    async def _deliver(self, client: Client, item: Message) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            reply, cause = await self._attempt(client, item)
            if reply is not None and reply.ok:
                self.counts.sent += 1
                return
            age = self._clock.monotonic() - item.told
            last = attempt == ATTEMPTS or age >= MAX_AGE or self._closing.is_set()
            if last or (reply is not None and not _is_passing(reply.status)):
                break
            if attempt == 1:
                _log.info("%s: %s is tried again: %s", self._name, item.what, cause)
            await self._clock.pause(self._pause(attempt, reply), self._closing)
        self.counts.failed += 1
        text = "%s: %s is given up at attempt %d: %s"
        _log.warning(text, self._name, item.what, attempt, cause)

    def _pause(self, attempt: int, reply: Reply | None) -> float:
        backoff = min(FIRST_PAUSE * 2.0 ** (attempt - 1), LONGEST_PAUSE) * self._clock.jitter()
        if reply is None or reply.retry_after is None:
            return backoff
        return max(backoff, min(reply.retry_after, LONGEST_RETRY_AFTER))

    async def _attempt(self, client: Client, item: Message) -> tuple[Reply | None, str]:
        webhook = self.webhook
        try:
            async with asyncio.timeout(webhook.timeout):
                keys = await client.in_thread(f"key of {self._name}", self._secret.keys)
            stamp = int(self._clock.time())
            headers = signature.headers(keys, item.id, stamp, item.body)
            headers["X-Canaryproxy-Event"] = item.what
            reply = await client.post(webhook.webhook, item.body, headers, webhook.timeout)
        except (signature.SecretError, Unanswered) as error:
            return None, str(error)
        except TimeoutError:
            return None, f"the key could not be read within {webhook.timeout:g} s"
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs a message, not the webhook
            return None, f"it cannot be sent ({type(error).__name__})"
        return reply, str(reply)


def _is_passing(status: int) -> bool:
    """Tell whether the same message may be taken later."""
    return status >= 500 or status in _TRY_AGAIN


class Notifier:
    """Tells webhooks what happens. ``release`` names the release in messages, and may be set anew.

    A key that cannot be read stops nothing: messages wait for it as for a webhook that is down.
    """

    def __init__(
        self,
        webhooks: Sequence[Webhook],
        release: str | None,
        clock: Clock | None = None,
        host: str | None = None,
    ) -> None:
        self.release = release
        self._host = host or socket.gethostname()
        self._clock = clock or Clock()
        self._workers = tuple(
            _Worker(at, webhook, self._clock) for at, webhook in enumerate(webhooks)
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Client | None = None

    @property
    def sent(self) -> tuple[int, ...]:
        """Messages that each webhook has taken."""
        return tuple(worker.counts.sent for worker in self._workers)

    @property
    def failed(self) -> tuple[int, ...]:
        """Messages that each webhook refused, or that were tried too often or too long."""
        return tuple(worker.counts.failed for worker in self._workers)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Messages for each webhook that gave way to others, or that ``stop`` had no time for."""
        return tuple(worker.counts.dropped for worker in self._workers)

    def start(self) -> None:
        """Begin to deliver; in a running loop."""
        if not self._workers:
            return
        self._client = Client()
        self._tasks = [asyncio.create_task(worker.run(self._client)) for worker in self._workers]

    def tell(self, record: Mapping[str, Any]) -> None:
        """Deliver a record of the history (as JSON values). Returns at once, and never raises."""
        wanting = [worker for worker in self._workers if worker.wants(record)]
        if not wanting:
            return
        ident = f"msg_{uuid.uuid4().hex}"
        told = self._clock.monotonic()
        for worker in wanting:
            form = message.chat if worker.webhook.format == "slack" else message.document
            body = form(record, self.release, self._host)
            worker.put(Message(ident, str(record.get("what")), body, told))

    async def stop(self, timeout: float) -> None:
        """Try what waits once more within ``timeout`` seconds, then give up and count.

        What ``tell`` gets from now on is only counted.
        """
        for worker in self._workers:
            worker.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
            self._tasks = []
        for worker in self._workers:
            worker.give_up()
        if self._client is not None:
            await self._client.close()
            self._client = None
