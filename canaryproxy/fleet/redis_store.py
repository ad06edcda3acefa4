"""The store: Redis, through redis-py. Every failure of it is one exception, ``StoreUnavailable``.

Keys of a group share a hash tag, so that they lie together in a cluster:

=======================================  ================================================================
``canaryproxy:{group}:release``          hash: the document, fields that scripts compare, the term
``canaryproxy:{group}:lease``            the leader's name; expires
``canaryproxy:{group}:members``          sorted set: when each replica was seen last, by the server's clock
``canaryproxy:{group}:counts:<name>``    the last row of counts of a replica's process; expires
``canaryproxy:{group}:sum:<mark>``       the sums of a round of evidence; expires a day after the last request
``canaryproxy:{group}:records:<mark>``   stream: the records of a round (``record_log``); trimmed, expires
``canaryproxy:{group}:leaving``          hash: tunnels and streams that are to leave, by replica; expires
``canaryproxy:{group}:reports``          hash: what replicas tell of themselves (``report``); expires
``canaryproxy:{group}:behind``           hash: what services behind say (``behind``), with the time; expires
``canaryproxy:{group}:judge``            evidence as the leader has it, for replicas that begin; expires
``canaryproxy:{group}:news``             channel: the name of each act
=======================================  ================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from canaryproxy.fleet.behind import Behind
from canaryproxy.fleet.record_log import BEGINNING, Entry, StoredEntry
from canaryproxy.fleet.report import Report
from canaryproxy.fleet.state import Document, Garbled

_KEEP_COUNTS = 600.0
"""Seconds within which a replica that was away continues its counts."""
_KEEP_JUDGE = 86400.0
_KEEP_LOG = 30.0
"""Seconds of records in the log: who joins continues from evidence that is not older."""
HEARD = 10.0
"""Seconds for which the fleet goes by what a service behind has said last."""
_RESUBSCRIBE = 0.5
_SILENCE = 5.0
"""Seconds without an act after which a subscription is tried."""


class StoreUnavailable(Exception):
    """The store did not do it, or may have done it without a reply; the text says why, without secrets."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        """Redis replies and refuses: out of memory, read-only, no permission."""


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """The report of a replica, sent every interval."""

    settings: str
    """Mark of its settings (``settings.settings``)."""
    settings_before: str
    """Mark of the settings before, once after they have changed; else empty."""
    known: str
    """Name of the act whose document it has."""
    marker: str
    """The settings, round and weight under which its requests were counted."""
    sums: str
    """Key of the sums that it wants: settings and round."""
    term: int
    """The newest term of the lease that it has seen."""
    progress: str
    """How far the step is, from the leader; else empty."""
    row: str
    """Its counters (``counts.row``)."""
    entry: Entry | None = None
    """Its records; ``None``: it does not know the split in force yet."""
    cursor: str = BEGINNING
    """Id of the last entry of the log that it has read."""
    most: int = 0
    """Entries that it takes; 0: it does not read the log."""
    leaving: tuple[int, int] | None = None
    """Its tunnels and streams that are to leave stable and the canary; ``None``: none, as before."""
    report: Report = field(default_factory=Report)
    """What else it tells the others of itself."""


@dataclass(frozen=True, slots=True)
class ExchangeReply:
    """The store's reply."""

    now: float
    """Seconds since the epoch by the server's clock."""
    act: str
    """Name of the act in the store; empty: there is no document."""
    term: int
    """The newest term of the lease."""
    leads: bool
    """Whether the replica that asked holds the lease."""
    leader: str
    """Name of the leader; empty: none."""
    acted_at: float
    """When the document was written, by the server's clock."""
    progress: str
    """How far the leader is in its step."""
    sums: str
    """The combined counts, as a row."""
    document: Document | None
    """The document, if it is not the one of ``ExchangeRequest.known``."""
    replicas: int
    """Replicas seen within a lease's time."""
    agree: int
    """Replicas with the settings of this one; counted for the leader only."""
    entries: tuple[StoredEntry, ...] = ()
    """The entries of the log after the cursor."""
    leaving: tuple[int, int] = (0, 0)
    """The tunnels and streams of all replicas that are to leave stable and the canary."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """What the replicas tell of themselves, by name; of one that is not named, nothing."""
    behind: Mapping[str, Behind] = field(default_factory=dict)
    """What services whose proxies follow the release say, by name (``split.follow.tell``)."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The outcome of a commit."""

    taken: bool
    found: Document | None = None
    """Not taken: the document that is in the store; ``None`` if there is none."""


def password(settings: Fleet) -> str | None:
    """Return the password that the configuration names. Raises ``SecretError``."""
    return SecretSource(settings.password_env, settings.password_file).read()


class RedisStore:
    """The keys of one group on a Redis server. ``me`` names this process; names are unique."""

    def __init__(self, settings: Fleet, me: str) -> None:
        self._settings = settings
        self._me = me
        self._lease = str(round(settings.lease * 1000))
        front = f"canaryproxy:{{{settings.group}}}:"
        self._release, self._lease_key = front + "release", front + "lease"
        self._members, self._counts = front + "members", f"{front}counts:{me}"
        self._sums, self._judge, self._news = front + "sum:", front + "judge", front + "news"
        self._log, self._leaving = front + "records:", front + "leaving"
        self._reports, self._behind = front + "reports", front + "behind"
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
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            socket_keepalive=not settings.redis.startswith("unix:") or None,
            retry=Retry(NoBackoff(), 0),  # the next exchange is soon enough
            max_connections=8,
            client_name="canaryproxy",
            **tls,
        )

    async def exchange(self, request: ExchangeRequest) -> ExchangeReply:
        """Report counts and records, and get those of all. Raises ``StoreUnavailable``."""
        entry = request.entry
        reply = await self._call(
            self._exchange,
            [
                *(self._release, self._lease_key, self._members, self._counts),
                *(self._sums + request.sums, self._log + request.sums, self._leaving),
                *(self._reports, self._behind),
            ],
            [
                *(self._me, request.settings, request.settings_before, self._lease),
                *(round(_KEEP_COUNTS * 1000), request.known, request.marker, request.term),
                *(request.progress, request.row),
                b"" if entry is None else entry.pack(),
                int(entry is None or not (entry.records or entry.lost)),
                *(max(round(_KEEP_LOG / self._settings.interval), 1), round(_KEEP_LOG * 2000)),
                *(request.cursor, request.most),
                "" if request.leaving is None else " ".join(map(str, request.leaving)),
                request.report.text(),
            ],
        )
        return self._reply(request, reply)

    def _reply(self, request: ExchangeRequest, reply: Sequence[Any]) -> ExchangeReply:
        """Return a reply of the script. Raises ``StoreUnavailable``."""
        now, act, term, holder, at, progress, sums, text = map(_text, reply[:8])
        replicas, agree, entries, off_stable, off_canary, told, behind = reply[8:]
        document = _document(text)
        if act not in ("", request.known) and (document is None or document.act != act):
            raise StoreUnavailable("the release document is not that of its act", refused=True)
        if not at.isdecimal():
            raise StoreUnavailable(
                "when the release document was written is not understood", refused=True
            )
        return ExchangeReply(
            now=int(now) / 1000,
            act=act,
            term=int(term),
            leads=holder == self._me,
            leader=holder,
            acted_at=int(at) / 1000,
            progress=progress,
            sums=sums,
            document=document,
            replicas=int(replicas),
            agree=int(agree),
            entries=tuple(_stored(name, fields) for name, fields in entries),
            leaving=(int(off_stable), int(off_canary)),
            reports={
                _text(name): _report(said) for name, said in zip(told[::2], told[1::2], strict=True)
            },
            behind={
                _text(name): _said(said)
                for name, said in zip(behind[::2], behind[1::2], strict=True)
            },
        )

    async def commit(
        self, base: str, document: Document, term: int, token: int = 0
    ) -> CommitResult:
        """Replace the document that the act ``base`` made (empty: there is none) by another one.

        With a ``token``, only while this replica leads by it. Raises ``StoreUnavailable``; the document may
        have been written then or not.
        """
        verdict, text = await self._call(
            self._commit,
            [self._release, self._lease_key],
            [
                *(base, self._me, token, term, document.act, document.version),
                *(document.settings, document.marker, document.to_json(), self._news),
            ],
        )
        return CommitResult(int(verdict) == 1, _document(_text(text)))

    async def tell(self, service: str, said: Behind) -> None:
        """Say how a service behind fares, to be heard for ``HEARD`` seconds. Raises ``StoreUnavailable``."""
        script = (
            "local clock = redis.call('TIME') "
            "local now = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)) "
            "redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2]) "
            "return redis.call('PEXPIRE', KEYS[1], ARGV[3])"
        )
        heard = str(round(HEARD * 1000))
        await self._do(self._redis.eval(script, 1, self._behind, service, said.text(), heard))

    async def keep_judge(self, text: str) -> None:
        """Keep the evidence for replicas that start. Raises ``StoreUnavailable``."""
        await self._do(self._redis.set(self._judge, text, px=round(_KEEP_JUDGE * 1000)))

    async def judge(self) -> str | None:
        """Return the evidence of ``keep_judge``. Raises ``StoreUnavailable``."""
        found = await self._do(self._redis.get(self._judge))
        return None if found is None else _text(found)

    async def _call(self, script: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await self._do(script(keys=keys, args=args))

    async def _do(self, work: Any) -> Any:
        try:
            async with asyncio.timeout(self._settings.timeout * 2):
                reply = await work
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            _end_if_cancelled()
            raise _unavailable(error) from None
        _end_if_cancelled()
        return reply

    async def listen(self, on_news: Callable[[], None]) -> None:
        """Call ``on_news`` at each act of any replica, until cancelled. Exchanges miss nothing without it."""
        while True:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(self._news)
                    on_news()
                    while True:
                        message = await channel.get_message(timeout=_SILENCE)
                        _end_if_cancelled()
                        if message is None:
                            async with asyncio.timeout(self._settings.timeout):
                                await channel.ping()  # finds a connection that was cut silently
                        elif message["type"] == "message":
                            on_news()
            await asyncio.sleep(_RESUBSCRIBE)

    async def leave(self, settings: str) -> None:
        """Give the lease back, so that another replica leads at once. Never raises."""
        script = (
            "redis.call('ZREM', KEYS[2], ARGV[1] .. ' ' .. ARGV[2]) "
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"
        )
        with contextlib.suppress(StoreUnavailable):
            keys = (self._lease_key, self._members)
            await self._do(self._redis.eval(script, len(keys), *keys, self._me, settings))

    async def close(self) -> None:
        """Close the connections."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._redis.aclose()


def _end_if_cancelled() -> None:
    """Raise ``CancelledError`` if it was swallowed: redis-py takes one while reading for a timeout."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _text(value: bytes | int) -> str:
    """Return what Redis holds as text. Raises ``StoreUnavailable``."""
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise StoreUnavailable(
            f"Redis holds bytes that are no text ({error})", refused=True
        ) from None


def _stored(name: bytes, fields: Sequence[bytes]) -> StoredEntry:
    """Return an entry of the log; one that the script has not written has the tick -1."""
    if list(fields[0::2]) == [b"tick", b"at", b"records"]:
        tick, at, data = fields[1::2]
        if tick.isdigit() and at.isdigit() and len(at) < 16 and len(tick) < 16:
            return StoredEntry(name.decode(), int(tick), int(at) / 1000, data)
    return StoredEntry(name.decode(), -1, 0.0, b"")


def _report(told: bytes) -> Report:
    """Return what a replica tells of itself. Raises ``StoreUnavailable``."""
    try:
        return Report.parse(_text(told))
    except ValueError as error:
        raise StoreUnavailable(
            f"the report of a replica cannot be parsed ({error})", refused=True
        ) from None


def _said(told: bytes) -> Behind:
    """Return what a service behind says. Raises ``StoreUnavailable``."""
    try:
        return Behind.parse(_text(told))
    except ValueError as error:
        raise StoreUnavailable(
            f"what a service behind says cannot be parsed ({error})", refused=True
        ) from None


def _document(text: str) -> Document | None:
    """Return the document of a text, ``None`` if it is empty. Raises ``StoreUnavailable``."""
    try:
        return Document.from_json(text) if text else None
    except Garbled as error:
        raise StoreUnavailable(str(error), refused=True) from None


def _unavailable(error: Exception) -> StoreUnavailable:
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return StoreUnavailable("Redis rejects the user name or the password", refused=True)
    if isinstance(error, ReadOnlyError):
        return StoreUnavailable("Redis is read-only: it is a replica", refused=True)
    if isinstance(error, ResponseError):
        first = str(error).partition("\n")[0][:200]
        return StoreUnavailable(f"Redis refuses: {first}", refused=True)
    if isinstance(error, (TimeoutError, RedisTimeoutError)):
        return StoreUnavailable("Redis did not reply in time")
    return StoreUnavailable(f"Redis cannot be reached ({type(error).__name__})")
