"""Secrets from environment variables and files.

Errors name the variable or the file, and never contain any part of the secret.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from canaryproxy.config.service_names import SERVICE_NAME

MAX_SECRET: Final = 4096
"""Maximum size of a secret in bytes."""
MAX_TOKENS: Final = 65_536
"""Maximum size of the admin tokens in bytes: those of a few hundred people and pipelines."""
MIN_SIGNING_KEY: Final = 32
"""Minimum size of a key for signatures in bytes."""
MIN_TOKEN: Final = 16
"""Minimum number of characters of an admin token."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_SERVICES: Final = "services="
_SERVICE: Final = re.compile(SERVICE_NAME)
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
    most: int = MAX_SECRET
    """Maximum size of the file in bytes."""

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
            text = _read(Path(self.file), self.most)
        else:
            return None
        secret = text.strip()
        if not secret:
            raise SecretMissing(f"{self} is empty")
        return secret


def _read(file: Path, most: int) -> str:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise SecretError(f"{file} is not a regular file")
        with file.open("rb") as opened:
            content = opened.read(most + 1)
    except OSError as error:
        raise SecretMissing(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > most:
        raise SecretError(f"{file} is longer than {most} bytes")
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


class AdminToken(NamedTuple):
    """A line of the admin tokens."""

    token: str
    name: str | None
    """Who holds it; ``None``: not said."""
    services: frozenset[str] | None
    """The services that it permits changes of; ``None``: all, and the configuration."""


def admin_tokens(text: str, where: str) -> tuple[AdminToken, ...]:
    """Return the tokens: one per line, ``NAME TOKEN``, with ``services=cart,pay`` behind it or without.

    A token may be without a name, too. Raises ``SecretError`` that names ``where`` they are from.
    """
    found: dict[str, AdminToken] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        one = _admin_token(line, where)
        if one.token in found:
            raise SecretError(
                f"{where} has the same token twice: give each person one of their own"
            )
        found[one.token] = one
    return tuple(found.values())


def _admin_token(line: str, where: str) -> AdminToken:
    parts = line.split()
    limited = len(parts) > 1 and parts[-1].startswith(_SERVICES)
    limit = parts.pop().removeprefix(_SERVICES) if limited else None
    *names, token = " ".join(parts).split(maxsplit=1) or [""]
    if len(token) < MIN_TOKEN:
        raise SecretError(f"the token in {where} is too short: use at least {MIN_TOKEN} characters")
    if not _TOKEN.fullmatch(token):
        raise SecretError(
            f"the token in {where} may contain only letters, digits and punctuation; "
            "several tokens are lines of NAME TOKEN"
        )
    if names and not _NAME.fullmatch(names[0]):
        raise SecretError(f"a name in {where} may contain only letters, digits and . _ @ + -")
    if limit is None:
        return AdminToken(token, names[0] if names else None, None)
    services = limit.split(",")
    if not names or not all(map(_SERVICE.fullmatch, services)):
        raise SecretError(
            f"a line of {where} that limits a token is NAME TOKEN {_SERVICES}cart,pay, with names of services"
        )
    return AdminToken(token, names[0], frozenset(services))
