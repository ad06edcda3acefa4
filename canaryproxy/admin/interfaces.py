"""What the admin API needs of the running proxy: ``control.Control``, or a stand-in in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from canaryproxy.release import circuit, rollout

Matches = Callable[[str], bool]
"""Whether an ETag (without quotes) is one that the client allows."""
Listener = Callable[[str, dict[str, Any]], None]
"""Is told ``"record"`` or ``"point"``, and its JSON values; must not block."""


class ControlLike(Protocol):
    """One running proxy, seen and steered; ``control.Control`` says what each part means."""

    @property
    def ready(self) -> bool: ...
    @property
    def etag(self) -> str: ...
    @property
    def config_etag(self) -> str: ...
    @property
    def history_id(self) -> int: ...
    def document(self) -> dict[str, Any]: ...
    def history(self, after: int | None, limit: int) -> list[dict[str, Any]]: ...
    def series(self, since: float) -> list[dict[str, Any]]: ...
    def subscribe(self, listener: Listener) -> Callable[[], None]: ...
    async def act(
        self,
        event: rollout.Event | circuit.Trip | circuit.Reset,
        *,
        if_match: Matches | None = None,
    ) -> None: ...
    async def drill(self, by: str, *, if_match: Matches | None = None) -> dict[str, Any]: ...
    def post_events(self, variant: str, count: int) -> None: ...
    def config(self) -> dict[str, Any]: ...
    async def reload(self, by: str | None = None) -> dict[str, Any]: ...
    async def put_config(
        self,
        text: str,
        *,
        if_match: Matches | None = None,
        dry_run: bool = False,
        by: str | None = None,
    ) -> dict[str, Any]: ...
