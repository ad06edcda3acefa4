"""The store: Redis, through redis-py. Everything that can go wrong with it is one exception, ``Away``.

Keys of a group share a hash tag, so that they lie together in a cluster:

=======================================  ================================================================
``canaryproxy:{group}:release``          hash: the document's text, what scripts compare, the lease's token
``canaryproxy:{group}:lease``            who leads; expires
``canaryproxy:{group}:members``          sorted set: who was heard of when, by the server's clock
``canaryproxy:{group}:counts:<name>``    the last row of counts of a replica's process; expires
``canaryproxy:{group}:sum:<mark>``       the sums of a round of evidence; expires a day after the last request
``canaryproxy:{group}:judge``            evidence as the leader has it, for replicas that begin; expires
``canaryproxy:{group}:news``             channel: the name of each act
=======================================  ================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from canaryproxy.config.model import Fleet
from canaryproxy.config.secrets import SecretSource
from canaryproxy.fleet.state import Document, Garbled

_KEEP_COUNTS = 600.0
"""Seconds for which a replica that was away can go on counting from where it was."""
_KEEP_JUDGE = 86400.0
_RESUBSCRIBE = 0.5
_SILENCE = 5.0
"""Seconds without an act after which a subscription is tried."""


class Away(Exception):
    """The store did not do it, or nobody knows whether it did; the text says why, without secrets."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        """It is there and takes nothing: out of memory, read-only, no permission."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a replica tells and asks at a tick."""

    settings: str
    before: str
    """The mark of the settings before, for one tick after they have changed."""
    known: str
    """Name of the act that it has the document of."""
    marker: str
    """What its counts were counted under."""
    sums: str
    """Which sums it wants: settings and round."""
    term: int
    progress: str
    row: str


@dataclass(frozen=True, slots=True)
class Told:
    """What the store answers."""

    now: float
    """Seconds since the epoch by the server's clock."""
    act: str
    """Name of the act in the store; empty: there is no document."""
    marker: str
    term: int
    leads: bool
    leader: str
    """Name of who leads; empty: nobody."""
    acted_at: float
    """When the document was written, by the server's clock."""
    progress: str
    sums: str
    document: Document | None
    """The document, if it is another one than that of ``Ask.known``."""
    replicas: int
    agree: int
    """Replicas with the settings of who asked; only a leader is told."""
    go_by: int
    """Replicas with the settings in force; only a leader is told."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a document that was to be written."""

    yes: bool
    now: float
    acted_on: Document | None = None
    """What is there instead; ``None`` if nothing is."""


def password(settings: Fleet) -> str | None:
    """Return the password that the configuration names. Raises ``SecretError``."""
    return SecretSource(settings.password_env, settings.password_file).read()


class Link:
    """The group's part of a Redis server. ``me`` names this process; no two have the same."""

    def __init__(self, settings: Fleet, me: str) -> None:
        self._settings = settings
        self._me = me
        self._lease = str(round(settings.lease * 1000))
        front = f"canaryproxy:{{{settings.group}}}:"
        self._release, self._lease_key = front + "release", front + "lease"
        self._members, self._counts = front + "members", f"{front}counts:{me}"
        self._sums, self._judge, self._news = front + "sum:", front + "judge", front + "news"
        self._redis = self._connect()
        folder = resources.files("canaryproxy.fleet")
        self._exchange = self._redis.register_script((folder / "exchange.lua").read_text("utf-8"))
        self._commit = self._redis.register_script((folder / "commit.lua").read_text("utf-8"))

    def _connect(self) -> Any:
        settings = self._settings
        tls: dict[str, Any] = {}
        if settings.ca_file is not None:
            tls["ssl_ca_certs"] = settings.ca_file
        return redis.Redis.from_url(
            settings.redis,
            username=settings.username,
            password=password(settings),
            decode_responses=True,
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            socket_keepalive=not settings.redis.startswith("unix:") or None,
            retry=Retry(
                NoBackoff(), 0
            ),  # who has not answered is away: it is asked again at the next tick
            max_connections=8,
            client_name="canaryproxy",
            **tls,
        )

    async def exchange(self, ask: Ask) -> Told:
        """Tell the counts, hear the sums. Raises ``Away``."""
        answer = await self._call(
            self._exchange,
            [self._release, self._lease_key, self._members, self._counts, self._sums + ask.sums],
            [
                *(self._me, ask.settings, ask.before, self._lease, round(_KEEP_COUNTS * 1000)),
                *(ask.known, ask.marker, ask.term, ask.progress, ask.row),
            ],
        )
        now, act, marker, term, holder, at, progress, sums, text, replicas, agree, go_by = answer
        document = _document(text)
        if act not in ("", ask.known) and (document is None or document.act != act):
            raise Away("the release document is not that of its act", refused=True)
        if not at.isdecimal():
            raise Away("when the release document was written is not understood", refused=True)
        return Told(
            now=int(now) / 1000,
            act=act,
            marker=marker,
            term=int(term),
            leads=holder == self._me,
            leader=holder,
            acted_at=int(at) / 1000,
            progress=progress,
            sums=sums,
            document=document,
            replicas=int(replicas),
            agree=int(agree),
            go_by=int(go_by),
        )

    async def commit(self, base: str, document: Document, term: int, token: int = 0) -> Taken:
        """Put a document in the place of the one that the act ``base`` made (empty: of none).

        With a ``token`` only as who leads by it. Raises ``Away``; then it may have been written or not.
        """
        verdict, now, text = await self._call(
            self._commit,
            [self._release, self._lease_key],
            [
                *(base, self._me, token, term, document.act, document.version),
                *(document.settings, document.marker, document.to_json(), self._news),
            ],
        )
        return Taken(int(verdict) == 1, int(now) / 1000, _document(text))

    async def keep_judge(self, text: str) -> None:
        """Keep the evidence for replicas that begin. Raises ``Away``."""
        await self._do(self._redis.set(self._judge, text, px=round(_KEEP_JUDGE * 1000)))

    async def judge(self) -> str | None:
        """Return what ``keep_judge`` kept. Raises ``Away``."""
        found: str | None = await self._do(self._redis.get(self._judge))
        return found

    async def _call(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await self._do(script(keys=keys, args=args))

    async def _do(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self._settings.timeout * 2):
                answer = await work
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            _end_if_cancelled()
            raise _away(error) from None
        _end_if_cancelled()
        return answer

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call ``heard`` at each act of anybody, until cancelled. Who polls misses nothing without it."""
        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(self._news)
                    heard()
                    while True:
                        message = await channel.get_message(timeout=_SILENCE)
                        _end_if_cancelled()
                        if message is None:
                            async with asyncio.timeout(self._settings.timeout):
                                await channel.ping()  # a line that was cut without a word shows
                        elif message["type"] == "message":
                            heard()
            await asyncio.sleep(_RESUBSCRIBE)

    async def leave(self, settings: str) -> None:
        """Give the lease back, so that another one leads at once. Never raises."""
        script = (
            "redis.call('ZREM', KEYS[2], ARGV[1] .. ' ' .. ARGV[2]) "
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"
        )
        with contextlib.suppress(Away):
            keys = (self._lease_key, self._members)
            await self._do(self._redis.eval(script, len(keys), *keys, self._me, settings))

    async def close(self) -> None:
        """Close the connections."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._redis.aclose()


def _end_if_cancelled() -> None:
    """redis-py takes a cancellation while it reads for a timeout, and goes on."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _document(text: str) -> Document | None:
    """Return the document of a text, ``None`` if it is empty. Raises ``Away``."""
    try:
        return Document.from_json(text) if text else None
    except Garbled as error:
        raise Away(str(error), refused=True) from None


def _away(error: Exception) -> Away:
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return Away("Redis does not accept the user or the password", refused=True)
    if isinstance(error, ReadOnlyError):
        return Away("Redis is read-only: it is a replica", refused=True)
    if isinstance(error, ResponseError):
        first = str(error).partition("\n")[0][:200]
        return Away(f"Redis refuses: {first}", refused=True)
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return Away("Redis does not answer in time")
    return Away(f"Redis cannot be reached ({type(error).__name__})")
