"""Delivery of notifications: one worker per webhook, so that a slow one delays no other.

A message is sent until the receiver accepts it (2xx) or refuses it (any other status but 408, 425, 429 and
5xx), until it was tried ``MAX_ATTEMPTS`` times, or until it is ``MAX_AGE`` old. Later messages wait
meanwhile: each webhook receives its messages in the order of the history.
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
from canaryproxy.config.secrets import SecretError, SecretSource
from canaryproxy.notify import message, signature
from canaryproxy.notify.backlog import Backlog
from canaryproxy.notify.outgoing import Client, NoResponse, Response, shown

_log = logging.getLogger(__name__)

BACKLOG = 100
"""Messages pending for one webhook."""
MAX_ATTEMPTS = 20
MAX_AGE = 3600.0
"""Seconds after which a message that failed is not retried."""
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0
"""Seconds: bounds of a pause before its jitter; it doubles with each attempt."""
MAX_RETRY_AFTER = 300.0
"""Seconds that a receiver can ask to wait."""

_RETRIED = frozenset({408, 425, 429})


class Clock:
    """The time of a notifier; tests replace it."""

    def time(self) -> float:
        """Return seconds since the epoch, for signatures."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never jump, for ages."""
        return time.monotonic()

    def jitter(self) -> float:
        """Return the fraction of a pause to wait, uniform in 0..1."""
        return random.random()  # noqa: S311 - it spreads load and protects nothing

    async def pause(self, seconds: float, cut: asyncio.Event) -> None:
        """Return after ``seconds``, or when ``cut`` is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await cut.wait()


@dataclass(frozen=True, slots=True)
class Message:
    """A notification to deliver."""

    id: str
    event: str
    body: bytes
    created: float
    """Seconds of ``Clock.monotonic``."""

    @property
    def urgent(self) -> bool:
        """Whether it is a trip or a breach, which no other event displaces from a backlog."""
        return self.event in ("tripped", "breached")


class _Counts:
    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        self.dropped = 0


class _Worker:
    """Delivers to one webhook."""

    def __init__(self, position: int, webhook: Webhook, clock: Clock, service: str | None) -> None:
        self.webhook = webhook
        self._extra = {"service": service}
        self.counts = _Counts()
        self._clock = clock
        self._secret = SecretSource(webhook.secret_env, webhook.secret_file)
        self._backlog: Backlog[Message] = Backlog(BACKLOG)
        self._current: Message | None = None
        self._arrived = asyncio.Event()
        self._closing = asyncio.Event()
        # The path of a chat's webhook is its password; the position says which webhook it is.
        self.name = f"notify[{position}] {shown(webhook.webhook, path=False)}"

    def wants(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record is for this webhook."""
        events = self.webhook.events
        return record.get("what") in events if events else message.is_notable(record)

    def put(self, item: Message) -> None:
        """Deliver ``item`` after the messages that are pending."""
        closing = self._closing.is_set()
        dropped = item if closing else self._backlog.put(item)
        if dropped is not None:
            self.counts.dropped += 1
            why = "shutting down" if closing else f"{BACKLOG} are pending"
            words = "%s: notification %s dropped: %s"
            _log.warning(words, self.name, dropped.event, why, extra=self._extra)
        self._arrived.set()

    async def run(self, client: Client) -> None:
        """Deliver until ``close`` is called and the backlog is empty."""
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
        """Accept no more messages, and try each pending one once more."""
        self._closing.set()
        self._arrived.set()

    def give_up(self) -> None:
        """Drop the pending messages; ``run`` must have ended."""
        left = self._backlog.clear() + (self._current is not None)
        self._current = None
        if left:
            self.counts.dropped += left
            words = "%s: shutting down: %d notifications dropped"
            _log.warning(words, self.name, left, extra=self._extra)

    def fail_current(self, error: BaseException) -> None:
        """Count the message in delivery when ``run`` crashed as failed, and log why."""
        self.counts.failed += 1
        words = "%s: notification failed: internal error"
        _log.error(words, self.name, exc_info=error, extra=self._extra)

    async def _deliver(self, client: Client, item: Message) -> None:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            response, cause = await self._attempt(client, item)
            if response is not None and response.ok:
                self.counts.sent += 1
                return
            age = self._clock.monotonic() - item.created
            last = attempt == MAX_ATTEMPTS or age >= MAX_AGE or self._closing.is_set()
            if last or (response is not None and not _is_retried(response.status)):
                break
            if attempt == 1:
                words = "%s: retrying notification %s: %s"
                _log.info(words, self.name, item.event, cause, extra=self._extra)
            await self._clock.pause(self._pause(attempt, response), self._closing)
        self.counts.failed += 1
        words = "%s: notification %s failed after %d attempts: %s"
        _log.warning(words, self.name, item.event, attempt, cause, extra=self._extra)

    def _pause(self, attempt: int, response: Response | None) -> float:
        backoff = min(FIRST_PAUSE * 2.0 ** (attempt - 1), MAX_PAUSE) * self._clock.jitter()
        if response is None or response.retry_after is None:
            return backoff
        return max(backoff, min(response.retry_after, MAX_RETRY_AFTER))

    async def _attempt(self, client: Client, item: Message) -> tuple[Response | None, str]:
        webhook = self.webhook
        try:
            async with asyncio.timeout(webhook.timeout):
                keys = await client.in_thread(
                    f"key of {self.name}", signature.webhook_keys, self._secret
                )
            timestamp = int(self._clock.time())
            headers = signature.headers(keys, item.id, timestamp, item.body)
            headers["X-Canaryproxy-Event"] = item.event
            response = await client.post(webhook.webhook, item.body, headers, webhook.timeout)
        except (SecretError, NoResponse) as error:
            return None, str(error)
        except TimeoutError:
            return None, f"the key could not be read within {webhook.timeout:g} s"
        return response, str(response)


def _is_retried(status: int) -> bool:
    """Return whether the receiver may accept the same message later."""
    return status >= 500 or status in _RETRIED


class Notifier:
    """Notifies webhooks of events. ``release`` names the release in messages; it can be changed. ``service``
    is its one of several.

    A signing key that cannot be read delays messages like a webhook that is down.
    """

    def __init__(
        self,
        webhooks: Sequence[Webhook],
        release: str | None,
        clock: Clock | None = None,
        host: str | None = None,
        environment: str | None = None,
        service: str | None = None,
    ) -> None:
        self.release = release
        self._service = service
        self._environment = environment
        self._host = host or socket.gethostname()
        self._clock = clock or Clock()
        self._workers = tuple(
            _Worker(position, webhook, self._clock, service)
            for position, webhook in enumerate(webhooks)
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: Client | None = None

    @property
    def sent(self) -> tuple[int, ...]:
        """Messages accepted, for each webhook."""
        return tuple(worker.counts.sent for worker in self._workers)

    @property
    def failed(self) -> tuple[int, ...]:
        """Messages refused, or tried too often or too long, for each webhook."""
        return tuple(worker.counts.failed for worker in self._workers)

    @property
    def dropped(self) -> tuple[int, ...]:
        """Messages displaced from a full backlog or dropped by ``stop``, for each webhook."""
        return tuple(worker.counts.dropped for worker in self._workers)

    def start(self) -> None:
        """Begin to deliver; in a running loop."""
        if not self._workers:
            return
        self._client = Client()
        for worker in self._workers:
            self._run(worker, self._client)

    def _run(self, worker: _Worker, client: Client) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                worker.fail_current(error)
                self._run(worker, client)  # a bug costs a message, not the webhook

        task = asyncio.create_task(worker.run(client))
        self._tasks.add(task)
        task.add_done_callback(ended)

    def notify(self, record: Mapping[str, Any]) -> None:
        """Deliver a record of the history (as JSON values). Returns at once, and never raises."""
        workers = [worker for worker in self._workers if worker.wants(record)]
        if not workers:
            return
        message_id = f"msg_{uuid.uuid4().hex}"
        created = self._clock.monotonic()
        origin = message.Origin(self.release, self._host, self._environment, self._service)
        for worker in workers:
            webhook = worker.webhook
            links = message.links_of(record, webhook.links, self._service)
            form = message.chat if webhook.format == "slack" else message.document
            body = form(record, origin, links)
            worker.put(Message(message_id, str(record.get("what")), body, created))

    async def stop(self, timeout: float) -> None:
        """Try each pending message once more within ``timeout`` seconds, and drop the rest.

        Messages of a later ``notify`` are only counted as dropped.
        """
        for worker in self._workers:
            worker.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for worker in self._workers:
            worker.give_up()
        if self._client is not None:
            await self._client.close()
            self._client = None
