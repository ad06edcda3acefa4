"""Signatures of sticky cookies. Without the key a client cannot make a cookie, so it cannot choose a bucket.

A signed value is ``key.signature``: the sticky key, and 22 characters of URL-safe base64 that hold the first
128 bits of HMAC-SHA256 (RFC 2104, with the truncation of its §5) over the cookie's name and the sticky key.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from typing import Final

_PURPOSE: Final = b"canaryproxy sticky cookie"
_SIGNATURE_BYTES: Final = 16


class Signer:
    """Signs with the first key, accepts all of them: so one key can replace another."""

    __slots__ = ("_keys", "_prefix", "rotates")

    def __init__(self, keys: tuple[bytes, ...], cookie: bytes) -> None:
        """``cookie`` is the cookie's name: a value signed for one cookie is not valid in another."""
        self._keys = keys
        self._prefix = _PURPOSE + b"\0" + cookie + b"\0"
        self.rotates = len(keys) > 1
        """Some keys only verify: cookies signed by them are to be signed again."""

    def sign(self, key: bytes) -> bytes:
        """Return the signed value of a sticky key."""
        return key + b"." + self._signature(self._keys[0], key)

    def verify(self, value: bytes) -> bytes | None:
        """Return the sticky key of a signed value, ``None`` if the signature is not valid for any key."""
        key, _, signature = value.rpartition(b".")
        for one in self._keys:
            if hmac.compare_digest(self._signature(one, key), signature):
                return key
        return None

    def is_old(self, value: bytes) -> bool:
        """Tell whether a verified value was not signed by the first key."""
        key, _, signature = value.rpartition(b".")
        return not hmac.compare_digest(self._signature(self._keys[0], key), signature)

    def _signature(self, secret: bytes, key: bytes) -> bytes:
        digest = hmac.digest(secret, self._prefix + key, "sha256")
        return urlsafe_b64encode(digest[:_SIGNATURE_BYTES])[:-2]
