"""Keys of session tickets that all workers share, so that each resumes the sessions of the others.

OpenSSL makes random keys for each context (RFC 5077, RFC 8446 §4.6.1), and Python's ``ssl`` has no way to set
others: of two workers, each could resume half of the sessions. Here they are derived from a secret that is
older than the workers, which are forked, and from the certificates and settings of the context.

Each ``LIFETIME`` the secret is replaced by what a one-way function makes of it. All workers do so by the same
clock, without a word; and who learns the keys of now can read no session of before.

The keys are set in OpenSSL itself, by ``ctypes``: with ``SSL_CTX_ctrl`` of the library that ``_ssl`` uses, on
the ``SSL_CTX`` that is the first member of a context in every CPython up to ``_NEWEST``. Elsewhere contexts
keep the keys that OpenSSL has made.
"""

from __future__ import annotations

import _ssl
import ctypes
import hashlib
import hmac
import os
import ssl
import sys
import time
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

LIFETIME: Final = 8 * 3600
"""Seconds for which the same keys are used."""
_GET_KEYS: Final = 58
_SET_KEYS: Final = 59
"""SSL_CTRL_GET_TLSEXT_TICKET_KEYS and SSL_CTRL_SET_TLSEXT_TICKET_KEYS."""
_SIZE: Final = 80
"""Bytes of the keys: a name of 16, and two keys of 32."""
_NEWEST: Final = (3, 14)


class Secret:
    """Source of keys in one period of ``LIFETIME``. A forked process has a copy."""

    def __init__(self, value: bytes, now: float) -> None:
        self._value = value
        self.period = int(now // LIFETIME)

    def advance(self, now: float) -> None:
        """Go on to the period of ``now``, in seconds of the wall clock; not back if that was set back."""
        while self.period < int(now // LIFETIME):
            self._value = hmac.digest(self._value, b"next", "sha256")
            self.period += 1

    def keys(self, scope: bytes) -> bytes:
        """Return the keys of all contexts of one ``scope``."""
        parts = [
            hmac.digest(self._value, b"keys %d " % number + scope, "sha256") for number in range(3)
        ]
        return b"".join(parts)[:_SIZE]

    def write(self) -> str:
        """Return it as text, for the process that takes over."""
        return f"{self.period} {self._value.hex()}"

    def take_over(self, text: str) -> None:
        """Become what ``write`` returned in another process. Raises ``ValueError`` if it is no such text."""
        period, _, value = text.partition(" ")
        self.period, self._value = int(period), bytes.fromhex(value)


SECRET: Final = Secret(os.urandom(32), time.time())
"""That of this process and of those that are forked from it."""


def scope_of(parts: Iterable[bytes]) -> bytes:
    """Return what tells contexts apart that are made of other parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d " % len(part) + part)
    return digest.digest()


def set_keys(context: ssl.SSLContext, keys: bytes) -> bool:
    """Write and read tickets with these keys from now on; tell whether that is possible here."""
    control = _control()
    return control is not None and control(_address(context), _SET_KEYS, _SIZE, keys) == 1


@cache
def _control() -> Any:
    """Return ``SSL_CTX_ctrl``; ``None`` where it is not found, or not as it is known."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] > _NEWEST:
        return None
    try:
        # Without a file ``_ssl`` is part of the interpreter.
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        version, control = library.OpenSSL_version_num, library.SSL_CTX_ctrl
    except (OSError, AttributeError):
        return None
    version.restype = ctypes.c_ulong
    if version() != ssl.OPENSSL_VERSION_NUMBER:
        return None
    control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p)
    control.restype = ctypes.c_long
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return control if control(_address(context), _GET_KEYS, 0, None) == _SIZE else None


def _address(context: ssl.SSLContext) -> int | None:
    """Return the ``SSL_CTX *`` that follows the head of the object."""
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
