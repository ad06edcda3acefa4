"""The running proxy behind the admin API: its services, its configuration, and whether it takes requests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from canaryproxy.control.brief_view import config_problems
from canaryproxy.control.reload import Change, Reloader
from canaryproxy.control.service import Control, Matches
from canaryproxy.notify import shown

DEFAULT = "default"
"""Name of the service of a configuration without ``services``."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service as operators see it; a reload that adds it again makes another one."""

    hosts: tuple[str, ...]
    """Hosts whose requests it takes, as configured; none: every host."""
    paths: tuple[str, ...]
    """Prefixes of their paths; none: every path."""
    control: Control


class Workers(Protocol):
    """The workers of the proxy."""

    @property
    def draining(self) -> bool:
        """Whether no worker takes new requests."""

    async def adopted(self) -> None:
        """Return when the newest configuration is in force for every request."""


class ProcessControl:
    """The views and acts that concern a whole proxy; ``services`` returns those in force, by name."""

    def __init__(
        self, workers: Workers, reloader: Reloader, services: Callable[[], Mapping[str, Service]]
    ) -> None:
        self._workers = workers
        self._reloader = reloader
        self._services = services
        self._host = socket.gethostname()

    @property
    def services(self) -> Mapping[str, Service]:
        """The services in force, by name, in the order of the configuration."""
        return self._services()

    @property
    def ready(self) -> bool:
        """Whether the proxy takes new requests: not while it drains."""
        return not self._workers.draining

    def config(self) -> dict[str, Any]:
        """Return the file, its text, the configuration in force, and why they differ if they do.

        The text may hold secrets (the URLs of webhooks); ``effective`` does not.
        """
        reloader = self._reloader
        return {
            "file": None if reloader.path is None else str(reloader.path),
            "text": reloader.text,
            "effective": _plain(reloader.running),
            "restart_needed": list(reloader.restart_needed),
            "error": reloader.error,
        }

    @property
    def problems(self) -> list[str]:
        """Problems of the configuration, in words."""
        return config_problems(self._reloader.error, self._reloader.restart_needed)

    @property
    def host(self) -> str:
        """Name of the machine."""
        return self._host

    @property
    def environment(self) -> str | None:
        """Name of the environment, as configured."""
        return self._reloader.running.environment

    @property
    def config_etag(self) -> str:
        """A mark of the file's text."""
        return self._reloader.etag

    async def reload(self, by: str | None = None) -> dict[str, Any]:
        """Read the file again, as ``by`` wants; return ``changed`` and ``restart_needed``.

        Raises ``config.ConfigError``, ``rollout.Refused``, ``OSError`` or ``Unsaved``.
        """
        return await self._saved(self._reloader.reload(by))

    async def put_config(
        self,
        text: str,
        *,
        if_match: Matches | None = None,
        dry_run: bool = False,
        by: str | None = None,
    ) -> dict[str, Any]:
        """Put a text into the file and in force. Raises as ``reload`` does, and ``Stale``."""
        change = await self._reloader.put(text, dry_run=dry_run, if_match=if_match, by=by)
        return await self._saved(change)

    async def _saved(self, change: Change) -> dict[str, Any]:
        await self._workers.adopted()
        await asyncio.gather(*(one.control.saved() for one in self.services.values()))
        return change.to_dict()


def _plain(value: Any, name: str = "") -> Any:
    """Return JSON values; URLs of webhooks without their secret parts."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        named = {field.alias or name: getattr(value, name) for name, field in fields}
        return {key: _plain(item, key) for key, item in named.items()}
    if isinstance(value, Mapping):
        return {key: _plain(item, str(key)) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return shown(value, path=False) if name == "webhook" else str(value)
