"""The field by which a proxy tells the proxies behind it which version a request gets.

It is an Item (RFC 9651): the variant as a Token, and parameters:

    X-Canary: canary;release="2026-11-1";unit=123456;weight=5;sig=:kVx...==:

``release`` is the id of the release that routed the request. ``unit`` is the user's fine position in the
split of that release (0..1,279,999), and not the sticky key. ``weight`` is the percentage of users that
the canary gets there. Both are left out where the user was not randomised. ``version`` names the version
beside the canary that takes its place for this user (``variants.others``). ``copy`` marks a copy of the
mirror. ``sig`` is a signature of all that.

The same value is a member of W3C baggage (https://www.w3.org/TR/baggage/), percent-encoded, for services that
pass on baggage and no other field. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from canaryproxy.http1.fields import IS_BAGGAGE, IS_PROPAGATED, Field
from canaryproxy.http1.structured import (
    Bare,
    Decimal,
    Item,
    NotStructured,
    Token,
    parse_item,
    write_item,
)
from canaryproxy.measure.routing import BUCKETS, CANARY, FINE, POSITIONS, VARIANTS

LONGEST: Final = 512
"""Bytes of the longest value that is read."""
_LONGEST_NAME: Final = 64
"""Characters of the id of a release, and of the name of a version."""
_HUNDREDTH: Final = 10
"""Thousandths in the resolution of a weight."""
MOST_MEMBERS: Final = 64
"""Members of baggage that every recipient has to pass on."""
MOST_BAGGAGE: Final = 8192
"""Bytes of baggage that every recipient has to pass on."""

_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_TO_ENCODE: Final = re.compile(rb"[^!#-$&-+\--:<-\[\]-~]")
"""Octets that are not allowed in a member of baggage, and the percent sign."""


class Propagated(NamedTuple):
    """The content of the field."""

    variant: int
    release: str = ""
    """Empty: the front has no release."""
    unit: int = -1
    """The user's fine position; -1: the user was not randomised."""
    limit: int = -1
    """Buckets on the front's canary; -1: not said."""
    copy: bool = False
    """The request is a copy of the front's mirror."""
    version: str = ""
    """The front's version that is the canary of this user; empty: its canary."""

    @property
    def randomised(self) -> bool:
        """Whether the variant is what the front's split makes of this unit."""
        if self.unit < 0 or self.limit < 0:
            return False
        return (self.variant == CANARY) == (self.unit // FINE < self.limit)


@dataclass(frozen=True, slots=True)
class Names:
    """The names under which fields say which version a request gets."""

    fields: frozenset[bytes]
    """Names of fields, in small letters."""
    baggage: frozenset[bytes] = frozenset()
    """Keys of members of baggage."""

    @property
    def kinds(self) -> dict[bytes, int]:
        """The kinds of these fields, for the parser of requests."""
        kinds = dict.fromkeys(self.fields, IS_PROPAGATED)
        return {**kinds, b"baggage": IS_BAGGAGE} if self.baggage else kinds

    def without_trailers(self, lines: bytes) -> bytes:
        """Return the lines of a trailer section without these fields, in whatever spelling."""
        dropped = self.kinds
        return b"".join(
            [
                line
                for line in lines.splitlines(keepends=True)
                if line.partition(b":")[0].lower().replace(b"_", b"-") not in dropped
            ]
        )


class Claims:
    """The fields of a request that say which version it gets; its sender may be no proxy."""

    __slots__ = ("baggage", "values")

    def __init__(self) -> None:
        self.values: list[Field] = []
        """Names in small letters, or ``baggage``, and values."""
        self.baggage: list[bytes] = []
        """The client's baggage without our members, if a member of ours is to join it."""


class Malformed(ValueError):
    """The value does not say which version the request gets."""


def item_of(said: Propagated) -> Item:
    """Return the field as an Item, without signature."""
    parameters: dict[str, Bare] = {}
    if said.release:
        parameters["release"] = said.release
    if said.unit >= 0:
        parameters["unit"] = said.unit
    if said.limit >= 0:
        whole, rest = divmod(said.limit, 100)
        parameters["weight"] = Decimal(said.limit * _HUNDREDTH) if rest else whole
    if said.version:
        parameters["version"] = said.version
    if said.copy:
        parameters["copy"] = True
    return Item(Token(VARIANTS[said.variant]), parameters)


def write(said: Propagated, signature: bytes = b"") -> bytes:
    """Return the field's value; without ``signature`` it is what is signed."""
    item = item_of(said)
    if signature:
        item = Item(item.value, {**item.parameters, "sig": signature})
    return write_item(item)


def read(value: bytes) -> tuple[Propagated, bytes]:
    """Return what a field's value says, and the signature (empty without one).

    Parameters of other names are not looked at. Raises ``Malformed``.
    """
    if len(value) > LONGEST:
        raise Malformed("too long")
    try:
        item = parse_item(value)
    except NotStructured as error:
        raise Malformed(str(error)) from None
    if not isinstance(item.value, Token) or item.value.text not in VARIANTS:
        raise Malformed("neither stable nor canary")
    get = item.parameters.get
    release, unit, copy, signature = get("release", ""), get("unit"), get("copy"), get("sig")
    version = get("version", "")
    if not isinstance(release, str) or len(release) > _LONGEST_NAME:
        raise Malformed("release is not the id of a release")
    if not isinstance(version, str) or len(version) > _LONGEST_NAME:
        raise Malformed("version is not the name of a version")
    if unit is None:
        unit = -1
    elif type(unit) is not int or not 0 <= unit < POSITIONS:
        raise Malformed("unit is not a position")
    if copy is not None and not isinstance(copy, bool):
        raise Malformed("copy is not a Boolean")
    if signature is not None and not isinstance(signature, bytes):
        raise Malformed("sig is not a Byte Sequence")
    variant, limit = VARIANTS.index(item.value.text), _limit(get("weight"))
    said = Propagated(variant, release, unit, limit, copy is True, version)
    return said, signature or b""


def _limit(weight: Bare | None) -> int:
    """Return the buckets of a weight in percent, an Integer or a Decimal; -1 without one."""
    if weight is None:
        return -1
    limit, rest = -1, 0
    if isinstance(weight, Decimal):
        limit, rest = divmod(weight.thousandths, _HUNDREDTH)
    elif type(weight) is int:
        limit = weight * 100
    if rest or not 0 <= limit <= BUCKETS:
        raise Malformed("weight is not a percentage")
    return limit


# W3C baggage


def member(key: bytes, value: bytes) -> bytes:
    """Return a member of baggage with this value."""
    return key + b"=" + _TO_ENCODE.sub(lambda found: b"%%%02X" % found[0][0], value)


def without_member(key: bytes, baggage: bytes) -> tuple[bytes, list[bytes]]:
    """Return the value of a baggage field without the members that have this key, and their values.

    The rest stays byte for byte. Keys are tokens, and their case matters.
    """
    if key not in baggage:
        return baggage, []
    rest: list[bytes] = []
    found: list[bytes] = []
    for one in baggage.split(b","):
        name, equals, value = one.partition(b"=")
        if equals and name.strip(b" \t") == key:
            encoded = value.partition(b";")[0].strip(b" \t")
            found.append(_ENCODED.sub(lambda match: bytes([int(match[1], 16)]), encoded))
        else:
            rest.append(one)
    return (b",".join(rest).strip(b" \t"), found) if found else (baggage, found)


def with_member(values: Iterable[bytes], one: bytes) -> bytes:
    """Return the value of a baggage field with ``one`` as its last member, after those of ``values``.

    Without it where it does not fit into what every recipient has to pass on: others were there before.
    """
    before = [value for value in values if value]
    merged = b",".join([*before, one])
    if len(merged) <= MOST_BAGGAGE and merged.count(b",") < MOST_MEMBERS:
        return merged
    return b",".join(before)
