"""One version front to back: tells upstreams which version a request gets, and follows the proxy before this.

``Propagator`` adds the field to the head of each request that is sent; ``Follower`` reads it from requests of
trusted proxies. Its grammar is ``http1.propagated``.

Theory of operation of following. The front has randomised the user. A request that follows goes to the
variant that the front has chosen, whatever the split here, and its user's unit is that of the front: so users
are compared here as they were randomised there. It is a trial only where the variant is what the front's
split makes of the unit, and was not changed here: an open circuit sends every user to stable, and a match
rule stands above the front. Requests that do not follow are routed by the split here and leave no records.
Users of another version of the front than the one that the canary here goes with follow to stable.
"""

from __future__ import annotations

import logging
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Final

from canaryproxy.config import Config, Follow, Propagate
from canaryproxy.config.secrets import signing_keys
from canaryproxy.config.service_names import is_other, version_of
from canaryproxy.http1.fields import Field
from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.propagated import (
    Malformed,
    Names,
    Propagated,
    member,
    read,
    with_member,
    write,
)
from canaryproxy.http1.request import Request
from canaryproxy.measure import counters, followed
from canaryproxy.measure.counters import NotFollowed
from canaryproxy.measure.followed import epoch_of
from canaryproxy.measure.records import POSITION_MASK, NameRing, RecordRing, pack_first, template_of
from canaryproxy.measure.routing import CANARY, FINE, NO_KEY_BUCKET, STABLE, RouteTable, Routing
from canaryproxy.proxy.signing import Signer
from canaryproxy.tls.files import Files

_log: Final = logging.getLogger(__name__)

PURPOSE: Final = b"propagated version"
"""Takes the place of the cookie's name in signatures: no cookie has a blank in its name."""
_MOST_VALUES: Final = 4096
"""Values that a worker remembers, in each direction."""
_MOST_PEERS: Final = 1024
_MOST_SPLITS: Final = 64
_NAME_EVERY: Final = 100
"""Announcements of a split after which the name of its release is written again."""
_BAGGAGE_LINE: Final = re.compile(rb"\r\n(?i:baggage):[^\r\n]*")
_BAGGAGE: Final = b"baggage"

_TEXTS: Final = (
    "it is not in split.follow.from",
    "the value is malformed: %s",
    "the signature is missing, or of no known key",
)
"""By ``NotFollowed``."""


def sign(said: Propagated, signer: Signer | None) -> bytes:
    """Return the field's value, signed if there is a signer."""
    plain = write(said)
    if signer is None:
        return plain
    signature = signer.sign(plain).rpartition(b".")[2]
    return write(said, urlsafe_b64decode(signature + b"=="))


def is_signed(said: Propagated, signature: bytes, signer: Signer) -> bool:
    """Tell whether a signature is that of a known key over what the field says."""
    text = urlsafe_b64encode(signature).rstrip(b"=")
    return signer.verify(write(said) + b"." + text) is not None


class FollowingRouting(Routing):
    """Where a request goes that follows the proxy before this one."""

    __slots__ = ("passed_on", "said", "split", "while_closed")

    def __init__(
        self,
        table: RouteTable,
        said: Propagated,
        while_closed: int,
        mark: int,
        split: _Split | None,
    ) -> None:
        variant = STABLE if table.circuit_open else while_closed
        unit = said.unit
        key = None if unit < 0 else b"%d" % unit
        bucket = NO_KEY_BUCKET if unit < 0 else unit // FINE
        super().__init__(table, key, bucket, variant, b"", mark, said.copy)
        self.said = said
        """What that proxy has said."""
        self.while_closed = while_closed
        """The variant that the request gets while the circuit here is closed."""
        self.split = split
        """The front's split, if that is said."""
        self.passed_on = b""
        """The value for the proxies behind this one, once it was made."""

    def without_record(self) -> Routing:
        return FollowingRouting(self.table, self.said, self.while_closed, -1, self.split)

    def wanted(self, table: RouteTable) -> int:
        """Return the variant under another table."""
        return STABLE if table.circuit_open else self.while_closed


class _Split:
    """A split of the front that this worker has met."""

    __slots__ = ("announced", "limit", "met", "release")

    def __init__(self, release: str, limit: int) -> None:
        self.release = release
        self.limit = limit
        self.met = False
        """A request was routed by it since the last announcement."""
        self.announced = 0


class Propagator:
    """Adds to the heads of requests which version they get."""

    __slots__ = (
        "_baggage_key",
        "_begin",
        "_release",
        "_signer",
        "_table",
        "_values",
        "_version",
    )

    def __init__(
        self,
        header: bytes,
        release: str,
        signer: Signer | None = None,
        baggage_key: bytes = b"",
        version: str = "",
    ) -> None:
        """``baggage_key`` is that of the member of W3C baggage; empty: none.

        ``version`` is the name of the version beside the canary that these requests may get.
        """
        self._begin = header + b": "
        self._release = release
        self._version = version
        self._signer = signer
        self._baggage_key = baggage_key
        self._table = RouteTable()
        self._values: dict[int, bytes] = {}
        """Values for users of ``_table``, by the mark of their records."""

    def head(self, request: Request, routing: Routing, variant: int) -> bytes:
        """Return a request's head with the field that says that it goes to ``variant``."""
        return self._with(request, self._value(routing, variant))

    def head_of_copy(self, request: Request) -> bytes:
        """Return the head of a copy that the mirror sends to the canary."""
        said = Propagated(CANARY, self._release, copy=True)
        return self._with(request, sign(said, self._signer))

    def _with(self, request: Request, value: bytes) -> bytes:
        head = request.head
        if not self._baggage_key:
            return head[:-2] + self._begin + value + b"\r\n\r\n"
        claims = request.fields.claims
        before = [] if claims is None else claims.baggage
        if before:
            head = _BAGGAGE_LINE.sub(b"", head)
        baggage = with_member(before, member(self._baggage_key, value))
        line = b"baggage: " + baggage + b"\r\n" if baggage else b""
        return head[:-2] + self._begin + value + b"\r\n" + line + b"\r\n"

    def _value(self, routing: Routing, variant: int) -> bytes:
        if isinstance(routing, FollowingRouting):
            return self._passed_on(routing, variant)
        table = routing.table
        if table is not self._table:
            if table.split != self._table.split:
                self._values.clear()
            self._table = table
        # Without a mark: one value for each variant. A rescued request has lost its mark.
        # Those behind compare by the hash of all users: where a cohort is drawn they only follow.
        drawn = routing.mark >= 0 and table.drawn_cohort is None
        key = routing.mark if drawn else -1 - variant
        value = self._values.get(key)
        if value is None:
            unit = routing.mark & POSITION_MASK if drawn else -1
            limit = table.limit if unit >= 0 else -1
            said = Propagated(variant, self._release, unit, limit, version=self._version)
            if len(self._values) >= _MOST_VALUES:
                self._values.clear()
            value = self._values[key] = sign(said, self._signer)
        return value

    def _passed_on(self, routing: FollowingRouting, variant: int) -> bytes:
        """Return what the proxy before this one has said, unless the request goes elsewhere."""
        said = routing.said
        if variant != said.variant:
            other = Propagated(variant, said.release, copy=said.copy, version=said.version)
            return sign(other, self._signer)
        if not routing.passed_on:
            routing.passed_on = sign(said, self._signer)
        return routing.passed_on


class Follower:
    """Follows the version that requests of trusted proxies name, and ignores what all others name."""

    __slots__ = (
        "_baggage",
        "_cells",
        "_has_canary",
        "_header",
        "_known",
        "_peers",
        "_proxies",
        "_routings",
        "_signer",
        "_splits",
        "_table",
        "_version",
        "follows",
    )

    def __init__(
        self,
        cells: memoryview[int],
        header: bytes = b"",
        proxies: TrustedProxies | None = None,
        signer: Signer | None = None,
        *,
        baggage: bool = False,
        has_canary: bool = True,
        version: str = "",
    ) -> None:
        """Follow what ``proxies`` say in this field, or in baggage if that is missing.

        ``cells`` are the service's counters that belong to no variant. Without ``proxies`` nothing is
        followed. ``signer``: only values with its signature are. ``version``: the front's version that the
        canary here goes with; empty: its canary.
        """
        self._cells = cells
        self._header = header.lower()
        self._proxies = proxies
        self.follows = proxies is not None
        """Requests may follow; if so, only those that do are compared."""
        self._signer = signer
        self._baggage = baggage
        self._has_canary = has_canary
        self._version = version
        self._peers: dict[str, bool] = {}
        self._known: dict[bytes, Propagated | NotFollowed] = {}
        self._routings: dict[bytes, FollowingRouting] = {}
        """Of values, under ``_table``."""
        self._table = RouteTable()
        self._splits: dict[tuple[str, int], _Split] = {}

    def route(self, request: Request, peer: Peer, table: RouteTable) -> Routing | None:
        """Return where a request goes by what it says, ``None`` if it says nothing that is followed."""
        claims = request.fields.claims
        if claims is None or not claims.values:
            return None
        reason = NotFollowed.UNTRUSTED
        if self._trusts(peer):
            value = self._value_in(claims.values)
            known = self._known.get(value)
            if known is None:
                known = self._learn(value, peer)
            if isinstance(known, Propagated):
                self._cells[counters.FOLLOWED] += 1
                return self._routing(value, known, table)
            reason = known
        self._refuse(reason, peer)
        return None

    def announce(self, records: RecordRing, names: NameRing) -> None:
        """Write what the epochs of the records since the last call mean. To be called ten times a second."""
        for split in self._splits.values():
            if split.met:
                split.met = False
                records.add(*followed.pack(split.release, split.limit))
                if split.announced % _NAME_EVERY == 0:
                    name = followed.name_of(split.release)
                    names.write(template_of(name), name)
                split.announced += 1

    def _trusts(self, peer: Peer) -> bool:
        """Tell whether the peer is followed: in the networks, or it may open our Unix socket.

        With the PROXY protocol the peer is the one that the load balancer names. Forwarding fields do not
        matter: what they name is the client, and not the proxy that has chosen the version.
        """
        proxies = self._proxies
        if proxies is None:
            return False
        address = peer.address
        if not address:
            return peer.trusted
        trusted = self._peers.get(address)
        if trusted is None:
            if len(self._peers) >= _MOST_PEERS:
                self._peers.clear()
            trusted = self._peers[address] = proxies.trusts(address)
        return trusted

    def _value_in(self, received: list[Field]) -> bytes:
        """Return the field's value; of two fields a list, which is malformed."""
        values = [value for name, value in received if name == self._header]
        if not values and self._baggage:
            values = [value for name, value in received if name == _BAGGAGE]
        return values[0] if len(values) == 1 else b", ".join(values)

    def _learn(self, value: bytes, peer: Peer) -> Propagated | NotFollowed:
        known: Propagated | NotFollowed
        detail = ""
        try:
            said, signature = read(value)
        except Malformed as error:
            known, detail = NotFollowed.MALFORMED, str(error)
        else:
            signer = self._signer
            is_valid = signer is None or is_signed(said, signature, signer)
            known = said if is_valid else NotFollowed.SIGNATURE
        if len(self._known) >= _MOST_VALUES:
            self._known.clear()
        self._known[value] = known
        if isinstance(known, NotFollowed):
            self._log(known, peer, detail)
        return known

    def _refuse(self, reason: NotFollowed, peer: Peer) -> None:
        if reason == NotFollowed.UNTRUSTED:
            self._log(reason, peer)
        self._cells[counters.NOT_FOLLOWED + reason] += 1

    def _log(self, reason: NotFollowed, peer: Peer, detail: str = "") -> None:
        """Log the first request of each reason that is not followed."""
        if self._cells[counters.NOT_FOLLOWED + reason] or not self.follows:
            return
        text = _TEXTS[reason] % detail if detail else _TEXTS[reason]
        _log.warning(
            "the version that a request of %s names is ignored: %s (logged once; see"
            " canaryproxy_not_followed_total)",
            peer.address or "a Unix socket",
            text,
        )

    def _routing(self, value: bytes, said: Propagated, table: RouteTable) -> FollowingRouting:
        if table is not self._table:
            self._table = table
            self._routings.clear()
        routing = self._routings.get(value)
        if routing is None:
            if len(self._routings) >= _MOST_VALUES:
                self._routings.clear()
            routing = self._routings[value] = self._made(said, table)
        if routing.split is not None:
            routing.split.met = True
        return routing

    def _made(self, said: Propagated, table: RouteTable) -> FollowingRouting:
        variant, mark = said.variant, -1
        goes_along = self._has_canary and said.version == self._version
        if variant == CANARY and not goes_along:
            variant = STABLE
        split = self._split_of(said)
        if split is not None and variant == said.variant and not (variant and table.circuit_open):
            epoch = epoch_of(said.release, said.limit)
            mark = pack_first(said.unit, variant, epoch, 0, 0, 0)
        return FollowingRouting(table, said, variant, mark, split)

    def _split_of(self, said: Propagated) -> _Split | None:
        if not said.randomised or said.copy or said.version != self._version:
            return None
        key = (said.release, said.limit)
        split = self._splits.get(key)
        if split is None:
            if len(self._splits) >= _MOST_SPLITS:
                del self._splits[next(iter(self._splits))]
            split = self._splits[key] = _Split(said.release, said.limit)
        return split


def names_of(configs: Iterable[Config]) -> Names | None:
    """Return the names that services, by their configurations, give the field; ``None``: none has one."""
    both = (part for one in configs for part in (one.propagate, one.split.follow))
    sections = [one for one in both if one is not None]
    if not sections:
        return None
    return Names(
        frozenset(one.key for one in sections),
        frozenset(one.key for one in sections if one.baggage),
    )


def propagator_of(config: Config, files: Files) -> Propagator | None:
    """Return what tells upstreams the version, if they are told."""
    section = config.propagate
    if section is None:
        return None
    key = section.key if section.baggage else b""
    header = section.header.encode("latin-1")
    version = version_of(config.service or "")
    return Propagator(header, config.release_id or "", _signer(section, files), key, version)


def follower_of(config: Config, files: Files, cells: memoryview[int]) -> Follower | None:
    """Return what reads the field, ``None`` where it has no name.

    Where upstreams are told and nothing is followed it counts those that pretend to know: once, for the
    service itself and not for versions beside its canary.
    """
    section = config.split.follow
    if section is None:
        counts = config.propagate is not None and not is_other(config.service or "")
        return Follower(cells) if counts else None
    return Follower(
        cells,
        section.key,
        TrustedProxies(section.from_),
        _signer(section, files),
        baggage=section.baggage,
        has_canary=config.variants.canary is not None,
        version=section.version or "",
    )


def _signer(section: Propagate | Follow, files: Files) -> Signer | None:
    if section.sign is None:
        return None
    return Signer(signing_keys(files.get(section.sign.key_file, b"")), PURPOSE)
