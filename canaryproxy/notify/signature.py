"""Signatures of messages: Standard Webhooks 1.0.0, symmetric (``v1``: HMAC-SHA256).

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from canaryproxy.config.secrets import SecretError, SecretSource

_PREFIX = "whsec_"


def webhook_keys(source: SecretSource) -> tuple[bytes, ...]:
    """Return the keys of a webhook or gate as they are now: none if none is configured.

    Each line is a key, and all of them sign, so that keys can be rotated. A line ``whsec_...`` is base64 as
    in Standard Webhooks; the bytes of any other line are the key. Reads a file: call it in a thread. Raises
    ``SecretError``: a message is never sent unsigned because its key is missing.
    """
    text = source.read()
    return () if text is None else parse_keys(text, str(source))


def parse_keys(text: str, where: str) -> tuple[bytes, ...]:
    """Return the keys in a text, one per line. Raises ``SecretError`` that names ``where`` it is from."""
    lines = [line.strip() for line in text.splitlines()]
    return tuple(_key(line, where) for line in lines if line)


def _key(line: str, where: str) -> bytes:
    if not line.startswith(_PREFIX):
        return line.encode()
    try:
        key = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise SecretError(f"{where}: the text after {_PREFIX} is not base64")
    return key


def sign(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of ``webhook-signature``: one signature for each key."""
    content = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digests = (hmac.digest(key, content, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def headers(
    keys: tuple[bytes, ...], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Return the headers of Standard Webhooks, without a signature if there are no keys.

    ``message_id`` stays the same when a message is retried; ``timestamp`` (seconds since the epoch) is the
    time of this attempt.
    """
    fields = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if keys:
        fields["webhook-signature"] = sign(keys, message_id, timestamp, body)
    return fields
