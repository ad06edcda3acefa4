"""Signatures of messages: Standard Webhooks 1.0.0, symmetric (``v1``: HMAC-SHA256).

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

_PREFIX = "whsec_"


class SecretError(Exception):
    """A configured key cannot be read. The text names the variable or file, never its content."""


class Signed(Protocol):
    """A webhook or gate of the configuration."""

    @property
    def secret_env(self) -> str | None:
        """Name of the environment variable."""

    @property
    def secret_file(self) -> str | None:
        """Path of the file."""


class Secret:
    """The signing keys of one webhook.

    Each line of the file or variable is a key, and all of them sign, so that keys can be rotated. A line
    ``whsec_...`` is base64 as in Standard Webhooks; the bytes of any other line are the key.
    """

    def __init__(self, config: Signed) -> None:
        self._env = config.secret_env
        self._file = None if config.secret_file is None else Path(config.secret_file)

    def keys(self) -> tuple[bytes, ...]:
        """Return the current keys; none if none is configured.

        Reads a file: call it in a thread. Raises ``SecretError``: a message is never sent unsigned because
        its key is missing.
        """
        if self._env is not None:
            text = os.environ.get(self._env)
            if text is None:
                raise SecretError(f"the environment variable {self._env} is not set")
            return _parsed(text, f"the environment variable {self._env}")
        if self._file is None:
            return ()
        try:
            text = self._file.read_text("utf-8")
        except OSError as error:
            raise SecretError(f"{self._file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SecretError(f"{self._file} is not UTF-8 text") from None
        return _parsed(text, str(self._file))


def _parsed(text: str, where: str) -> tuple[bytes, ...]:
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(_key(line, where) for line in lines if line)
    if not keys:
        raise SecretError(f"{where} is empty")
    return keys


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
