"""Hosts and paths of services, as they are compared with those of requests.

Each parser takes a value from YAML and raises ``ValueError`` with what is allowed.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote

_LABELS: Final = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63})*"
HOST_PATTERN: Final = rf"^(?:(?:\*\.)?{_LABELS}\.?|\[[0-9A-Fa-f:.]+\])$"
"""Regular expression for the JSON Schema."""
PATH_PATTERN: Final = r"^/[A-Za-z0-9._~%!$&'()*+,;=:@/-]*$"
"""Likewise."""

_HOST = re.compile(rf"(?:\*\.)?{_LABELS}")
_PATH = re.compile(PATH_PATTERN[1:-1])
_LONGEST_NAME = 253
_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def host_pattern(value: object) -> str:
    """Return a host name, or ``*.name``, in small letters and without the dot of the root.

    An IPv6 address is in brackets, in its short form.
    """
    expected = "a host name without port, such as shop.example.com or *.example.com"
    if not isinstance(value, str):
        raise ValueError(expected)
    if value in ("*", "*.", "_", ""):
        raise ValueError(f"{expected}; a service without hosts takes any host")
    if not value.isascii():
        raise ValueError(f"{expected}, in ASCII as browsers send it{_in_ascii(value)}")
    name = value.lower()
    if name.startswith("[") or name.count(":") > 1:
        return _literal(name, expected)
    name = name.removesuffix(".")
    if len(name) > _LONGEST_NAME or not _HOST.fullmatch(name):
        raise ValueError(expected)
    if not name.strip("0123456789."):
        return _address(name, "an IPv4 address of four numbers, such as 127.0.0.1")
    return name


def path_prefix(value: object) -> str:
    """Return a prefix of paths without a slash at its end; ``/`` alone is every path."""
    expected = "a path that begins with /, without query, such as /cart"
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(expected)
    if not value.isascii():
        escaped = quote(value, safe="/%!$&'()*+,;=:@~")
        raise ValueError(f"{expected}, percent-encoded as requests have it: {escaped}")
    if not _PATH.fullmatch(value) or _BAD_ESCAPE.search(value):
        raise ValueError(expected)
    if value.endswith("/*"):
        raise ValueError(f"{expected}; it stands for all below it: {value[:-2] or '/'}")
    if any(_DOTS.fullmatch(segment) for segment in value.split("/")):
        raise ValueError(f"{expected}, without the segments . and ..: clients resolve them")
    return value.rstrip("/") or "/"


def _literal(name: str, expected: str) -> str:
    inner = name.removeprefix("[").removesuffix("]")
    try:
        address = ip_address(inner)
    except ValueError:
        raise ValueError(expected) from None
    if address.version != 6:
        raise ValueError(expected)
    if name != f"[{inner}]":
        raise ValueError(f"an IPv6 address in brackets: [{address}]")
    return f"[{address}]"


def _address(name: str, expected: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        raise ValueError(expected) from None


def _in_ascii(name: str) -> str:
    try:
        return f": {name.encode('idna').decode()}"
    except UnicodeError:
        return ""
