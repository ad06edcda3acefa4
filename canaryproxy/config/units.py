"""Durations, sizes, ratios, weights and names, as people write them.

Each parser takes a value from YAML and returns it in the unit that the code uses. It raises ``ValueError``
with what is allowed. ``duration_text``, ``size_text`` and ``ratio_text`` write values back.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import isfinite

from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.config.patterns import searcher

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
DURATION_PATTERN = rf"^{_NUMBER}(?:ms|s|m|h|d)$"
SIZE_PATTERN = r"^[0-9]{1,16}(?:B|kB|KB|KiB|MB|MiB|GB|GiB)?$"
RATIO_PATTERN = r"^(?:100(?:\.0{1,15})?|[0-9]{1,2}(?:\.[0-9]{1,15})?)%$"
WEIGHT_PATTERN = r"^(?:100(?:\.0{1,15})?|[0-9]{1,2}(?:\.[0-9]{1,2}0{0,13})?)%$"
RELEASE_ID_PATTERN = r"[A-Za-z0-9._:-]{1,64}"
RELEASE_ID_WORDS = "1 to 64 letters, digits and . _ : - only"
TOKEN_PATTERN = r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$"  # noqa: S105
"""A token of RFC 9110 §5.6.2: the name of a header, a cookie or a method."""
STATUS_PATTERN = r"^(?:[1-5]xx|[1-5][0-9]{2})$"

_DURATION = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_SECONDS = {
    "d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001"),
}  # fmt: skip
LONGEST = 3650 * 86400.0
_SIZE = re.compile(r"([0-9]{1,16})(B|kB|KB|KiB|MB|MiB|GB|GiB)?")
_BYTES = {
    None: 1, "B": 1, "kB": 10**3, "KB": 10**3, "KiB": 1 << 10,
    "MB": 10**6, "MiB": 1 << 20, "GB": 10**9, "GiB": 1 << 30,
}  # fmt: skip
LARGEST_SIZE = 1 << 50
"""Bytes, 1 PiB."""
_RATIO = re.compile(RATIO_PATTERN[1:-1])
_TOKEN = re.compile(TOKEN_PATTERN[1:-1])
_STATUS = re.compile(STATUS_PATTERN[1:-1])
_REGEX_LENGTH = 512


def duration(value: object, *, least: str = "0s") -> float:
    """Return seconds for ``250ms``, ``5s``, ``5m``, ``1h``, ``30d`` or ``0``; at most 3650 days."""
    if value in (0, "0") and not isinstance(value, bool):
        value = "0s"
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration with a unit, such as 250ms, 5s, 5m, 1h or 30d")
    found = float(Decimal(match[1]) * _SECONDS[match[2]])
    if found > LONGEST:
        raise ValueError("a duration of at most 3650d")
    if least != "0s" and found < duration(least):
        raise ValueError(f"a duration of at least {least}")
    return found


def duration_text(seconds: float) -> str:
    """Return a duration as ``duration`` reads it: ``300.0`` is ``5m``."""
    exact = Decimal(repr(float(seconds)))
    for unit, factor in _SECONDS.items():
        if exact and exact % factor == 0:
            return f"{exact / factor:.0f}{unit}"
    return f"{exact:f}s" if exact else "0s"


def size(value: object, *, least: int = 0, most: int = LARGEST_SIZE) -> int:
    """Return bytes for ``64KiB``, ``1MiB``, ``10kB`` or ``512``."""
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        found = int(match[1]) * _BYTES[match[2]] if match else -1
    if not least <= found <= most:
        if most < LARGEST_SIZE:
            raise ValueError(f"a size from {size_text(least)} to {size_text(most)}, such as 1MiB")
        above = f" of at least {least}" if least else ""
        raise ValueError(f"a size{above}, such as 64KiB, 1MiB, 10kB or 512 (bytes)")
    return found


def size_text(count: int) -> str:
    """Return a size as ``size`` reads it: ``65536`` is ``64KiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return str(count)


def ratio(value: object) -> float:
    """Return a fraction 0..1 for ``1%`` or ``0.01``."""
    found = _number(value)
    if isinstance(value, str) and _RATIO.fullmatch(value):
        found = float(Decimal(value[:-1]) / 100)
    if found is None or not 0 <= found <= 1:
        raise ValueError("a ratio from 0 to 1, such as 1% or 0.01")
    return found


def ratio_text(fraction: float) -> str:
    """Return a ratio as ``ratio`` reads it: ``0.01`` is ``1%``."""
    return f"{(Decimal(repr(float(fraction))) * 100).normalize():f}%"


def weight(value: object) -> float:
    """Return a percentage 0..100, with at most two decimals, for ``5``, ``0.25`` or ``5%``."""
    found = _number(value)
    if isinstance(value, str) and _RATIO.fullmatch(value):
        found = float(value[:-1])
    if found is None or not 0 <= found <= 100:
        raise ValueError("a percentage from 0 to 100, such as 5, 0.25 or 5%")
    if abs(found * 100 - round(found * 100)) > 1e-6:
        raise ValueError("a percentage with at most two decimals")
    return abs(round(found, 2))  # -0.0 is 0


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    return None


def token(value: object) -> str:
    """Return a name that is valid for a header or a cookie."""
    if isinstance(value, str) and len(value) <= 256 and _TOKEN.fullmatch(value):
        return value
    raise ValueError("a name of letters, digits and !#$%&'*+-.^_`|~")


def status(value: object) -> str:
    """Return a status (``503``, also as a number) or a class of statuses (``5xx``) as text."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and _STATUS.fullmatch(text):
        return text
    raise ValueError("a status such as 5xx or 503")


def grpc_status(value: object) -> str:
    """Return the name of a gRPC status (``UNAVAILABLE``)."""
    if isinstance(value, str) and value in GrpcStatus.__members__ and value != "OK":
        return value
    names = ", ".join(one.name for one in GrpcStatus if one)
    raise ValueError(f"one of {names}")


def regex(value: object) -> str:
    """Return a regular expression in RE2 syntax, of at most 512 characters."""
    if not isinstance(value, str) or len(value) > _REGEX_LENGTH:
        raise ValueError(f"a regular expression of at most {_REGEX_LENGTH} characters")
    try:
        searcher(value)
    except ValueError as error:
        raise ValueError(f"a regular expression in RE2 syntax ({error})") from None
    return value
