"""Secrets from environment variables and files.

Errors name the variable or the file, and never contain any part of the secret.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_SECRET: Final = 4096
"""Maximum size of a secret in bytes."""
MIN_SIGNING_KEY: Final = 32
"""Minimum size of a key for signatures in bytes."""


class SecretError(ValueError):
    """A configured secret cannot be used; the text says why."""


class SecretMissing(SecretError):
    """There is no secret where the configuration says: not set, empty, or not readable."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the configuration puts a secret: an environment variable, a file, or nowhere."""

    env: str | None = None
    file: str | None = None

    @property
    def configured(self) -> bool:
        """Whether there should be a secret."""
        return self.env is not None or self.file is not None

    def __str__(self) -> str:
        return f"the environment variable {self.env}" if self.env is not None else str(self.file)

    def read(self) -> str | None:
        """Return the secret without surrounding white space, ``None`` if none is configured.

        May block on a slow disk, never on a pipe. Raises ``SecretError``.
        """
        if self.env is not None:
            text = os.environ.get(self.env)
            if text is None:
                raise SecretMissing(f"{self} is not set")
        elif self.file is not None:
            text = _read(Path(self.file))
        else:
            return None
        secret = text.strip()
        if not secret:
            raise SecretMissing(f"{self} is empty")
        return secret


def _read(file: Path) -> str:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise SecretError(f"{file} is not a regular file")
        with file.open("rb") as opened:
            content = opened.read(MAX_SECRET + 1)
    except OSError as error:
        raise SecretMissing(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > MAX_SECRET:
        raise SecretError(f"{file} is longer than {MAX_SECRET} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SecretError(f"{file} is not UTF-8 text") from None


def signing_keys(content: bytes) -> tuple[bytes, ...]:
    """Return the keys in the content of a key file: one per line, without surrounding white space.

    Raises ``ValueError`` if there is none, or one is too short.
    """
    keys = []
    for number, line in enumerate(content.splitlines(), 1):
        key = line.strip()
        if key and len(key) < MIN_SIGNING_KEY:
            raise ValueError(
                f"line {number} has {len(key)} bytes: a key has at least {MIN_SIGNING_KEY}"
            )
        if key:
            keys.append(key)
    if not keys:
        raise ValueError("holds no key")
    return tuple(keys)
