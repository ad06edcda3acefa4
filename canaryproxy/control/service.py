"""The release of one service behind the admin API: every view and every act of an operator."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Protocol

import canaryproxy
from canaryproxy.control import endpoint_view, route_view
from canaryproxy.control import release_view as view
from canaryproxy.control.authority import Overtaken, Unavailable
from canaryproxy.control.brief_view import Brief, brief
from canaryproxy.control.causes import quantiles
from canaryproxy.control.controller import Controller
from canaryproxy.control.drill import drill
from canaryproxy.control.endpoint_figures import EndpointReading
from canaryproxy.control.endpoint_view import Endpoints
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.control.reload import Reloader, Stale
from canaryproxy.control.route_view import Routes
from canaryproxy.control.saver import Unsaved
from canaryproxy.control.shed_watch import ShedWatch
from canaryproxy.control.timeseries import TrafficHistory
from canaryproxy.judging.metrics import ANSWERS
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Totals
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS
from canaryproxy.release import acts, circuit, rollout
from canaryproxy.release.capacity import ACCEPTED as CAPACITY
from canaryproxy.release.circuit import Record

__all__ = ["Control", "Plane", "Stale", "Unavailable", "Unsaved"]

Matches = Callable[[str], bool]
"""Whether a client's condition allows an ETag (given without quotes)."""
Listener = Callable[[str, dict[str, Any]], None]
"""Is called with ``"record"`` or ``"point"`` and its JSON values; must not block."""

USERS = "users"
"""What is accepted where users do not arrive as they were randomised."""
_ATTEMPTS = 5
"""Attempts at an act, if acts of other replicas overtake it."""


class Plane(Protocol):
    """The data path, as operators see it."""

    @property
    def draining(self) -> bool:
        """It takes no new requests."""

    def endpoints(self, variant: int) -> Sequence[EndpointReading]:
        """Return each endpoint of a variant as all workers see it."""

    async def adopted(self) -> None:
        """Return when the newest configuration is in force for every request."""


class Control:
    """Views and acts of the release of one service."""

    def __init__(
        self,
        controller: Controller,
        cells: Totals,
        plane: Plane,
        reloader: Reloader,
        main_pid: int | None = None,
        unresolved: Callable[[], list[str]] = list,
        *,
        used: bool = True,
    ) -> None:
        """``main_pid`` takes signals, if not this process; ``unresolved`` says what names do not resolve.

        ``used``: something has been counted in ``cells``.
        """
        self._unresolved = unresolved
        self._main_pid = main_pid
        self._controller = controller
        self._cells = cells
        self._plane = plane
        self._reloader = reloader
        self._traffic = TrafficHistory()
        self._sheds = ShedWatch(controller.ledger, cells.variants, used=used)
        self._listeners: list[Listener] = []
        self._host = socket.gethostname()
        self._boot = secrets.token_hex(4)
        """Two runs of the proxy never share an ETag."""
        self._unsubscribe = controller.subscribe(self._recorded)

    # Life

    def stop(self) -> None:
        """Tell listeners of no more records."""
        self._unsubscribe()

    @property
    def is_watched(self) -> bool:
        """Whether listeners wait for points."""
        return bool(self._listeners)

    def sample(self) -> None:
        """Take a point of the traffic and give it to the listeners; call it every second."""
        point = self._take()
        for listener in tuple(self._listeners):
            listener("point", point)

    def _take(self) -> dict[str, Any]:
        status = self._controller.status()
        seen = status.assessment
        point = self._traffic.take(
            monotonic(),
            self._controller.now,
            self._cells.variants,
            status.weight,
            {
                verdict.metric: view.finite(verdict.log_evidence)
                for verdict in (() if seen is None else seen.verdicts)
                if not verdict.scope
            },
        )
        self._sheds.observe(monotonic())
        now, windows = self._controller.now, self._traffic.now()
        in_flight = [counters.in_flight(cells) for cells in self._cells.variants]
        up = [sum(one.serves for one in self._plane.endpoints(which)) for which in (STABLE, CANARY)]
        self._controller.capacity.take(now, windows, in_flight, up)
        if 0 < status.weight < 100 and seen is not None:
            of = status.release, status.weight, status.circuit.since, seen.warming
            self._controller.causes.traffic.take(of, self._traffic.newest)
        return point

    def _recorded(self, number: int, entry: Record) -> None:
        told = view.record(number, entry)
        for listener in tuple(self._listeners):
            listener("record", told)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener("record", …)`` and ``listener("point", …)`` as they come; return a function that
        ends it.

        It is called in the event loop and must not block.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # To see

    @property
    def etag(self) -> str:
        """Changes with everything that matters to an operator's decision; without quotes."""
        return self._controller.authority.tag or f"{self._boot}-{self._controller.ledger.revision}"

    def release_view(self) -> view.Release:
        """Return where the release is."""
        reloader, config = self._reloader, self._controller.config
        has_canary = config.variants.canary is not None
        return view.release(
            self._controller.status(),
            self._controller.now,
            fleet=self._controller.authority.view(),
            variants=view.Variants(
                stable=self._variant(STABLE),
                canary=self._variant(CANARY) if has_canary else None,
            ),
            config=view.ConfigStatus(
                file=None if reloader.path is None else str(reloader.path),
                loaded_at=reloader.loaded_at,
                error=reloader.error,
                restart_needed=list(reloader.restart_needed),
            ),
            environment=config.environment,
            host=self._host,
            at_fault=self._at_fault(),
            unresolved=self._unresolved(),
            version=canaryproxy.__version__,
            pid=os.getpid(),
            main_pid=self._main_pid or os.getpid(),
            timings=self._timings(),
            capacity=view.capacity(self._controller.capacity, self._controller.now),
        )

    def brief(self) -> Brief:
        """Return where the release is, in short; costs far less than ``release_view``."""
        return brief(self._controller.status(), self._controller.authority.view())

    def _timings(self) -> dict[str, view.Timing]:
        """Return the response times of both variants on this step, by the metric that judges them."""
        found = {}
        for metric, q in quantiles(self._controller.settings.judge).items():
            seconds, both = self._controller.causes.traffic.percentiles(q)
            if seconds >= 1.0:
                found[metric] = view.timing(q, seconds, both)
        return found

    def _variant(self, which: int) -> view.Variant:
        cells = self._cells.variants[which]
        leaving, moving = counters.leaving(cells), self._controller.config.circuit.takes
        return view.variant(
            self._traffic.now()[which],
            counters.answered(cells),
            cells[counters.FAILED],
            counters.in_flight(cells),
            view.LongLived(
                tunnels=counters.tunnels(cells),
                streams=counters.streams(cells),
                leaving=leaving,
                until=self._controller.departures.since + moving if leaving > 0 else None,
            ),
            self._plane.endpoints(which),
            counters.shed(cells),
        )

    def endpoints(self) -> Endpoints:
        """Return the figures of each endpoint."""
        figures, now = self._controller.endpoints, self._controller.now
        return Endpoints(
            time=now,
            endpoints=[
                endpoint_view.row(name, one, recent)
                for variant, name in enumerate(VARIANTS)
                for one, recent in figures.rows(now, variant)
            ],
            at_fault=self._at_fault(),
            unresolved=self._unresolved(),
        )

    def routes(self) -> Routes:
        """Return the figures of each route."""
        now, status = self._controller.now, self._controller.status()
        return route_view.routes(now, self._controller.routes.rows(now), status.assessment)

    def _at_fault(self) -> list[str]:
        figures, now = self._controller.endpoints, self._controller.now
        found = [figures.at_fault(now, variant) for variant in (CANARY, STABLE)]
        return [one.said for one in found if one is not None]

    @property
    def history_id(self) -> int:
        """Number of the newest record."""
        return self._controller.status().recorded

    def history(self, after: int | None, limit: int) -> list[dict[str, Any]]:
        """Return records, oldest first: those after a number, or the newest ones."""
        status = self._controller.status()
        first = status.recorded - len(status.history) + 1
        numbered = list(enumerate(status.history, first))
        if after is None:
            chosen = numbered[-limit:] if limit > 0 else []
        else:
            chosen = [(number, entry) for number, entry in numbered if number > after][:limit]
        return [view.record(number, entry) for number, entry in chosen]

    def series(self, since: float) -> list[dict[str, Any]]:
        """Return the points of the traffic history after a time."""
        return [point for point in self._traffic.points if point["t"] > since]

    # To do

    async def act(
        self,
        event: rollout.Event | circuit.Trip | circuit.Reset,
        *,
        if_match: Matches | None = None,
    ) -> None:
        """Perform an act; returns when it is on disk.

        ``if_match`` is given the ETag; an act towards stable does not depend on it. Raises
        ``rollout.Refused``, ``Stale``, ``Unavailable`` or ``Unsaved``.
        """
        if isinstance(event, rollout.Accept):
            self._refuse_unknown(event.metric)
        for _ in range(_ATTEMPTS):
            status = self._controller.status()
            reversible = status.plan.reversible
            if acts.needs_precondition(event, status.rollout, status.weight, reversible=reversible):
                self._compare(if_match)
            try:
                await self._controller.act_and_save(event)
            except Overtaken:
                continue
            return
        raise Stale("the release keeps changing: acts of other replicas were faster")

    def preview(self, act: acts.Operation, event: acts.Event | None) -> view.Act:
        """Return the effect of an act, without doing it; ``event`` is its event, ``None`` for a drill."""
        status = self._controller.status()
        here = acts.Here(
            status.release,
            status.circuit,
            status.rollout,
            status.plan,
            self._controller.settings.circuit,
            status.weight,
            self._controller.now,
            status.assessment,
            self._controller.users.count,
            counters.tunnels(self._cells.canary) + counters.streams(self._cells.canary),
            self._controller.config.circuit.takes,
            status.cohorts,
        )
        found = acts.preview(act, event, here)
        if isinstance(event, rollout.Accept) and event.metric and found.refusal is None:
            try:
                self._refuse_unknown(event.metric)
            except rollout.Refused as error:
                found = replace(found, refusal=str(error), asks=False, moved=None, says=())
        return view.act(found)

    def previews(
        self, weight: float | None = None, metric: str = "", *, now: bool = False
    ) -> list[view.Act]:
        """Return the effect of every act; ``weight`` would be set, by default the present one, ``metric``
        accepted, and the release aborted at once if ``now``."""
        present = self._controller.status().weight
        events: Mapping[acts.Operation, acts.Event | None] = {
            "start": rollout.Start(),
            "pause": rollout.Pause(),
            "resume": rollout.Resume(),
            "promote": rollout.Promote(),
            "abort": rollout.Abort(now=now),
            "reset": circuit.Reset(),
            "weight": rollout.SetWeight(present if weight is None else weight),
            "accept": rollout.Accept(metric),
            "trip": circuit.Trip(""),
            "drill": None,
        }
        return [self.preview(name, event) for name, event in events.items()]

    def _refuse_unknown(self, accepted: str) -> None:
        """Raise ``rollout.Refused`` unless it is a metric that is compared, or one with a route."""
        seen = self._controller.status().assessment
        verdicts = () if seen is None else seen.verdicts
        holds = (CAPACITY,) if self._controller.settings.capacity == "hold" else ()
        metrics = (verdict.metric for verdict in verdicts)
        names = dict.fromkeys((*metrics, ANSWERS, USERS, *holds))
        metric = accepted.partition(" ")[0]
        if metric not in names:
            raise rollout.Refused(
                f"no metric {metric!r} is compared (those that are: {', '.join(names) or 'none'})"
            )

    def _compare(self, if_match: Matches | None) -> None:
        if if_match is not None and not if_match(self.etag):
            raise Stale("the release has changed since it was read")

    async def drill(self, by: str, *, if_match: Matches | None = None) -> dict[str, Any]:
        """Trip, measure, reset; return the figures. Raises as ``act`` does.

        Once begun, a drill runs to its end, even if the caller goes away.
        """
        self._compare(if_match)
        cells, moving = self._cells.canary, self._controller.config.circuit.takes
        return await asyncio.shield(drill(self._controller, lambda: cells, by, moving))

    def post_events(self, events: Sequence[PostedEvent]) -> int:
        """Take business events, all or none; return how many name a user who is randomised.

        Raises ``rollout.Refused`` if the configuration does not ask for them, or one contradicts the split.
        """
        business = self._controller.config.judge.metrics.business
        if business is None or business.outcome != "events":
            raise rollout.Refused(
                "posted events count only with judge: {metrics: {business: {outcome: events}}}"
            )
        return self._controller.post_events(events)

    async def saved(self) -> None:
        """Return when the release is on disk as it is now. Raises ``Unsaved``."""
        await self._controller.saved()
