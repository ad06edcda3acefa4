"""The running proxy and its services as the admin API uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from canaryproxy.control.brief_view import Brief
from canaryproxy.control.endpoint_view import Endpoints
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.release_view import Act, Release
from canaryproxy.control.route_view import Routes
from canaryproxy.control.service import Listener, Matches
from canaryproxy.release import acts, circuit, rollout

__all__ = ["Listener", "Matches", "ProxyControl", "ReleaseControl", "Service"]


class ReleaseControl(Protocol):
    """Watches and operates the release of one service; ``control.service.Control`` is the real one."""

    @property
    def etag(self) -> str:
        """Version of the release view, without quotes."""

    @property
    def history_id(self) -> int:
        """Number of the newest record."""

    def release_view(self) -> Release:
        """Return where the release is."""

    def brief(self) -> Brief:
        """Return where the release is, in short."""

    def endpoints(self) -> Endpoints:
        """Return the figures of each endpoint."""

    def routes(self) -> Routes:
        """Return the figures of each route."""

    def history(self, after: int | None, limit: int) -> list[dict[str, Any]]:
        """Return up to ``limit`` records, oldest first: those after a number, or the newest."""

    def series(self, since: float) -> list[dict[str, Any]]:
        """Return the points of the time series after ``since``, in seconds since the epoch."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every record and point; return a function that ends it."""

    async def act(
        self,
        event: rollout.Event | circuit.Trip | circuit.Reset,
        *,
        if_match: Matches | None = None,
    ) -> None:
        """Apply an operator's event; return once it is saved.

        Raises ``Refused``, ``Stale``, ``Unavailable`` or ``Unsaved``.
        """

    def preview(self, act: acts.Operation, event: acts.Event | None) -> Act:
        """Return the effect of an act, without doing it; ``event`` is its event, ``None`` for a drill."""

    def previews(self, weight: float | None = None, metric: str = "") -> list[Act]:
        """Return the effect of every act; ``weight`` would be set, by default the present one, and ``metric``
        accepted."""

    async def drill(self, by: str, *, if_match: Matches | None = None) -> dict[str, Any]:
        """Rehearse a rollback and return its figures. Raises as ``act``."""

    def post_events(self, events: Sequence[PostedEvent]) -> int:
        """Take business events, all or none; return how many name a user who is randomised.

        Raises ``Refused``.
        """


class Service(Protocol):
    """A service of a proxy; ``control.process.Service`` is the real one."""

    @property
    def hosts(self) -> Sequence[str]:
        """Hosts whose requests it takes, as configured; none: every host."""

    @property
    def paths(self) -> Sequence[str]:
        """Prefixes of their paths; none: every path."""

    @property
    def control(self) -> ReleaseControl:
        """Its release; another object if a reload removed the service and another added it again."""


class ProxyControl(Protocol):
    """Views and acts of the whole proxy; ``control.process.ProcessControl`` is the real one."""

    @property
    def services(self) -> Mapping[str, Service]:
        """The services in force, by name."""

    @property
    def ready(self) -> bool:
        """Whether the proxy accepts new requests."""

    @property
    def host(self) -> str:
        """Name of the machine."""

    @property
    def environment(self) -> str | None:
        """Name of the environment, as configured."""

    @property
    def problems(self) -> list[str]:
        """Problems of the configuration, in words."""

    @property
    def config_etag(self) -> str:
        """Version of the configuration file, without quotes."""

    def config(self) -> dict[str, Any]:
        """Return the configuration file and what is in force."""

    async def reload(self, by: str | None = None) -> dict[str, Any]:
        """Read the configuration file again; return what changed.

        Raises ``ConfigError``, ``Refused``, ``OSError`` or ``Unsaved``.
        """

    async def put_config(
        self,
        text: str,
        *,
        if_match: Matches | None = None,
        dry_run: bool = False,
        by: str | None = None,
    ) -> dict[str, Any]:
        """Replace the configuration file and load it; return what changed.

        Raises as ``reload``, and ``Stale``.
        """
