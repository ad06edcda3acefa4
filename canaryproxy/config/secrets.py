"""Secrets from environment variables and files.

Errors name the variable or the file, and never contain any part of the secret.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_SECRET: Final = 4096
"""Maximum size of a secret in bytes."""
MIN_SIGNING_KEY: Final = 32
"""Minimum size of a key for signatures in bytes."""
MIN_TOKEN: Final = 16
"""Minimum number of characters of an admin token."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_NAME: Final = re.compile(r"[A-Za-z0-9._@+-]{1,64}")


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


def admin_tokens(text: str, where: str) -> tuple[tuple[str | None, str], ...]:
    """Return names and tokens: one per line, ``NAME TOKEN`` or a token without a name.

    Raises ``SecretError`` that names ``where`` they are from.
    """
    found: dict[str, str | None] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        *names, token = line.split(maxsplit=1)
        if len(token) < MIN_TOKEN:
            raise SecretError(
                f"the token in {where} is too short: use at least {MIN_TOKEN} characters"
            )
        if not _TOKEN.fullmatch(token):
            raise SecretError(
                f"the token in {where} may contain only letters, digits and punctuation; "
                "several tokens are lines of NAME TOKEN"
            )
        if names and not _NAME.fullmatch(names[0]):
            raise SecretError(f"a name in {where} may contain only letters, digits and . _ @ + -")
        if token in found:
            raise SecretError(
                f"{where} has the same token twice: give each person one of their own"
            )
        found[token] = names[0] if names else None
    return tuple((name, token) for token, name in found.items())
