"""Structured fields (RFC 9651): one Item with its parameters, parsed strictly and written in canonical form.

A field that is not exactly what the grammar says has no value at all (§4.2): nothing is guessed, nothing is
repaired. Lists and dictionaries are not read here. Each part is one regular expression without nested
repetition, so that the time grows with the length only.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

LARGEST: Final = 999_999_999_999_999
"""The largest Integer (§3.3.1); the smallest one is its negative."""

_KEY: Final = re.compile(r"[a-z*][a-z0-9_\-.*]*")
_TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*")
_DECIMAL: Final = re.compile(r"(-?)([0-9]{1,12})\.([0-9]{1,3})(?![0-9.])")
_INTEGER: Final = re.compile(r"-?[0-9]{1,15}(?![0-9.])")
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_BYTES: Final = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_BOOLEAN: Final = re.compile(r"\?([01])")
_DISPLAY: Final = re.compile(r'%"((?:[ !#$&-~]|%[0-9a-f]{2})*)"')
_ENCODED: Final = re.compile(rb"%([0-9a-f]{2})")
_TO_ENCODE: Final = re.compile(rb'[^ -~]|[%"]')
_VISIBLE: Final = re.compile(r"[ -~]*")


@dataclass(frozen=True, slots=True)
class Token:
    """A Token (§3.3.4), which is not a String."""

    text: str


@dataclass(frozen=True, slots=True)
class Decimal:
    """A Decimal (§3.3.2), which has three digits after the point at most."""

    thousandths: int


@dataclass(frozen=True, slots=True)
class Date:
    """A Date (§3.3.7)."""

    seconds: int
    """Since the epoch."""


@dataclass(frozen=True, slots=True)
class Display:
    """A Display String (§3.3.8), of any characters."""

    text: str


Bare = int | Decimal | str | Token | bytes | bool | Date | Display
"""Integer, Decimal, String, Token, Byte Sequence, Boolean, Date, Display String."""


@dataclass(frozen=True, slots=True)
class Item:
    """A value with its parameters, in their order."""

    value: Bare
    parameters: Mapping[str, Bare] = field(default_factory=dict)


class NotStructured(ValueError):
    """The text is no Item, or the value cannot be written as one."""


def parse_item(value: bytes) -> Item:
    """Return the Item of a field's value (§4.2.3). Raises ``NotStructured``.

    Of parameters with the same key the last one counts (§3.1.2).
    """
    if not value.isascii():
        raise NotStructured("not ASCII")
    text = value.decode("ascii").strip(" ")
    bare, at = _bare(text, 0)
    parameters: dict[str, Bare] = {}
    while at < len(text):
        if text[at] != ";":
            raise NotStructured(f"unexpected {text[at]!r} at {at}")
        at += 1
        while at < len(text) and text[at] == " ":
            at += 1
        found = _KEY.match(text, at)
        if found is None:
            raise NotStructured(f"no key at {at}")
        key, at = found[0], found.end()
        one: Bare = True
        if at < len(text) and text[at] == "=":
            one, at = _bare(text, at + 1)
        parameters[key] = one
    return Item(bare, parameters)


def _bare(text: str, at: int) -> tuple[Bare, int]:
    """Return the bare item that begins at ``at``, and where it ends (§4.2.3.1)."""
    first = text[at : at + 1]
    if first and (first in "-" or first.isdigit()):
        return _number(text, at)
    for begins, pattern, read in _KINDS:
        if first == begins:
            found = pattern.match(text, at)
            if found is None:
                break
            return read(found[1]), found.end()
    found = _TOKEN.match(text, at)
    if found is None:
        raise NotStructured(f"no item at {at}")
    return Token(found[0]), found.end()


def _number(text: str, at: int) -> tuple[Bare, int]:
    found = _DECIMAL.match(text, at)
    if found is not None:
        thousandths = int(found[2]) * 1000 + int(found[3].ljust(3, "0"))
        return Decimal(-thousandths if found[1] else thousandths), found.end()
    found = _INTEGER.match(text, at)
    if found is None:
        raise NotStructured(f"malformed number at {at}")
    return int(found[0]), found.end()


def _string(text: str) -> Bare:
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def _byte_sequence(text: str) -> Bare:
    """Decode base64; padding may be missing, and bits that pad are not looked at (§4.2.7)."""
    digits = text.rstrip("=")
    if len(digits) % 4 == 1:
        raise NotStructured("malformed base64")
    return b64decode(digits + "=" * (-len(digits) % 4))


def _boolean(text: str) -> Bare:
    return text == "1"


def _date(text: str) -> Bare:
    return Date(int(text))


def _display(text: str) -> Bare:
    raw = _ENCODED.sub(lambda found: bytes([int(found[1], 16)]), text.encode("ascii"))
    try:
        return Display(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise NotStructured("a Display String is not UTF-8") from None


_KINDS: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], Bare]], ...]] = (
    ('"', _STRING, _string),
    (":", _BYTES, _byte_sequence),
    ("?", _BOOLEAN, _boolean),
    ("@", re.compile(r"@(-?[0-9]{1,15})(?![0-9.])"), _date),
    ("%", _DISPLAY, _display),
)
"""The bare items that their first character tells: the pattern, and what reads its group."""


def write_item(item: Item) -> bytes:
    """Return an Item in canonical form (§4.1.3). Raises ``NotStructured``."""
    parts = [_text(item.value)]
    for key, value in item.parameters.items():
        if not _KEY.fullmatch(key):
            raise NotStructured(f"not a key: {key!r}")
        parts.append(f";{key}" if value is True else f";{key}={_text(value)}")
    return "".join(parts).encode("ascii")


def _text(value: Bare) -> str:
    if isinstance(value, bool):
        return f"?{value:d}"
    if isinstance(value, int):
        return str(_in_range(value))
    if isinstance(value, Decimal):
        return _decimal(value.thousandths)
    if isinstance(value, Date):
        return f"@{_in_range(value.seconds)}"
    if isinstance(value, bytes):
        return f":{b64encode(value).decode()}:"
    if isinstance(value, Token):
        if not _TOKEN.fullmatch(value.text):
            raise NotStructured(f"not a token: {value.text!r}")
        return value.text
    if isinstance(value, Display):
        try:
            raw = value.text.encode("utf-8")
        except UnicodeEncodeError:
            raise NotStructured("not Unicode") from None
        return f'%"{_TO_ENCODE.sub(lambda found: b"%%%02x" % found[0][0], raw).decode()}"'
    if not _VISIBLE.fullmatch(value):
        raise NotStructured("a String has visible ASCII and blanks only")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _in_range(value: int) -> int:
    if abs(value) > LARGEST:
        raise NotStructured(f"more than 15 digits: {value}")
    return value


def _decimal(thousandths: int) -> str:
    whole, rest = divmod(abs(thousandths), 1000)
    if whole >= 10**12:
        raise NotStructured("more than 12 digits before the point")
    sign = "-" if thousandths < 0 else ""
    return f"{sign}{whole}.{f'{rest:03}'.rstrip('0') or '0'}"
