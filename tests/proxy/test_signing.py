"""Signatures of sticky keys: what was signed is accepted, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config.secrets import MIN_SIGNING_KEY
from canaryproxy.proxy.signing import Signer

KEY = b"k" * MIN_SIGNING_KEY
OTHER = b"o" * MIN_SIGNING_KEY
ident = st.binary(min_size=1, max_size=60)


def test_a_signature_is_hmac_sha256_of_purpose_name_and_key() -> None:
    content = b"canaryproxy sticky cookie\0canary_id\0user"
    digest = hmac.new(KEY, content, hashlib.sha256).digest()
    expected = base64.urlsafe_b64encode(digest[:16]).rstrip(b"=")
    assert Signer((KEY,), b"canary_id").sign(b"user") == b"user." + expected
    assert re.fullmatch(rb"[A-Za-z0-9_-]{22}", expected)


@given(ident)
def test_what_was_signed_is_accepted_by_all_who_have_the_key(key: bytes) -> None:
    value = Signer((KEY,), b"c").sign(key)
    assert Signer((OTHER, KEY), b"c").verify(value) == key
    assert Signer((KEY, OTHER), b"c").verify(value) == key
    assert Signer((OTHER,), b"c").verify(value) is None
    assert Signer((KEY,), b"other_cookie").verify(value) is None


@given(ident, st.integers(min_value=0), st.integers(1, 255))
def test_no_byte_can_be_changed(key: bytes, at: int, by: int) -> None:
    signer = Signer((KEY,), b"c")
    value = bytearray(signer.sign(key))
    at %= len(value)
    value[at] ^= by
    assert signer.verify(bytes(value)) is None


@given(st.binary(max_size=100))
def test_nothing_else_is_accepted_or_breaks_it(value: bytes) -> None:
    assert Signer((KEY, OTHER), b"c").verify(value) is None


def test_what_the_first_key_has_not_signed_is_old() -> None:
    signer = Signer((KEY, OTHER), b"c")
    assert signer.rotates
    assert not signer.is_old(signer.sign(b"u"))
    assert signer.is_old(Signer((OTHER,), b"c").sign(b"u"))
    assert not Signer((KEY,), b"c").rotates
