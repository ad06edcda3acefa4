"""The bearer tokens that permit changes over TCP, each with or without the name of who holds it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
from pathlib import Path
from typing import NamedTuple

from canaryproxy.config import Admin
from canaryproxy.config.secrets import (
    MAX_TOKENS,
    SecretError,
    SecretMissing,
    SecretSource,
    admin_tokens,
)
from canaryproxy.config.service_names import service_of

_log = logging.getLogger(__name__)


class Token(NamedTuple):
    """A token that permits changes."""

    name: str | None
    """Who holds it; ``None``: not known."""
    digest: bytes
    services: frozenset[str] | None = None
    """The services that it permits changes of; ``None``: all, and the configuration."""

    def permits(self, service: str | None) -> bool:
        """Return whether it permits changes of a service, or of the whole proxy (``None``).

        A version beside the canary belongs to its service.
        """
        if self.services is None:
            return True
        return service is not None and service_of(service) in self.services


class Tokens:
    """The tokens that permit changes; a file is read again when it changes.

    Raises ``SecretError`` if one is too short or malformed. Without a token, or while the file cannot be
    used, no change is permitted.
    """

    def __init__(self, source: SecretSource) -> None:
        self.configured = source.configured
        self._source = source
        self._file = None if source.file is None else Path(source.file)
        self._stamp = self._file_stamp()
        self._tokens = self._load()

    @classmethod
    def of(cls, admin: Admin) -> Tokens:
        """Return the tokens of ``admin``. Raises ``SecretError``."""
        return cls(_source(admin))

    def find(self, presented: str) -> Token | None:
        """Return the token that this is, or ``None``; takes the same time for every wrong one."""
        self._refresh()
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(digest, token.digest):
                found = token
        return found

    @property
    def usable(self) -> bool:
        """Whether a token is available."""
        self._refresh()
        return bool(self._tokens)

    def _refresh(self) -> None:
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = self._load()
        except SecretError as error:
            self._tokens = ()
            _log.error("%s; admin.listen is read-only", error)

    def _file_stamp(self) -> object:
        """Return a value that changes whenever the file changes."""
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError as error:
            return error.errno
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _load(self) -> tuple[Token, ...]:
        try:
            return _read(self._source)
        except SecretMissing as error:
            _log.error("admin token: %s; admin.listen is read-only until there is one", error)
            return ()


def check_tokens(admin: Admin) -> None:
    """Raise ``SecretError`` if the configured tokens cannot be used; they may still be missing."""
    with contextlib.suppress(
        SecretMissing
    ):  # logged once, by the process that serves the admin API
        _read(_source(admin))


def _source(admin: Admin) -> SecretSource:
    return SecretSource(admin.token_env, admin.token_file, MAX_TOKENS)


def _read(source: SecretSource) -> tuple[Token, ...]:
    """Return the tokens; none if none is configured. Raises ``SecretMissing`` or ``SecretError``."""
    text = source.read()
    named = () if text is None else admin_tokens(text, str(source))
    return tuple(
        Token(one.name, hashlib.sha256(one.token.encode()).digest(), one.services) for one in named
    )
