"""Releases as an operator meets them, in the shapes of the admin API."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from typing import Any

from canaryproxy.config import text

Document = dict[str, Any]

PLAN = [
    {"weight": 1.0, "bake": 300.0, "min_requests": 500, "min_users": 10},
    {"weight": 5.0, "bake": 300.0, "min_requests": 1000, "min_users": 10},
    {"weight": 25.0, "bake": 600.0, "min_requests": 1000, "min_users": 10},
    {"weight": 50.0, "bake": 600.0, "min_requests": 1000, "min_users": 10},
    {"weight": 100.0, "bake": 0.0, "min_requests": 0, "min_users": 10},
]
TIMING = {
    "quantile": 0.95,
    "seconds": 192.0,
    "canary": {"value": 0.048, "low": 0.044, "high": 0.053},
    "stable": {"value": 0.046, "low": 0.045, "high": 0.047},
}
LIMIT = math.log(5 / 0.001)
HOLD_LIMIT = math.log(5 / 0.05)
RUNNING = ["pause", "promote", "abort", "weight", "accept", "trip", "drill"]


@dataclass
class Scene:
    """What the admin API knows."""

    document: Document
    records: list[Document] = field(default_factory=list)
    points: list[Document] = field(default_factory=list)
    error_rates: tuple[float, float] = (0.005, 0.005)
    """Of stable and canary, for the points that follow."""
    slowness: float = 1.0
    """How many times slower the canary is."""

    def point(self, t: float, weight: float) -> Document:
        """Return figures of one second."""
        noise = random.Random(int(t * 10))
        day = 1 + 0.15 * math.sin(t / 240)
        sides: Document = {"t": t, "weight": weight}
        share = weight / 100
        sides["share"] = max(share * noise.gauss(1, 0.05), 0) if weight < 100 else 1.0
        shares = {"stable": 1 - share, "canary": share}
        for side, rate, slow in (
            ("stable", self.error_rates[0], 1.0),
            ("canary", self.error_rates[1], self.slowness),
        ):
            requests = 200 * day * shares[side]
            if requests < 0.5:
                sides[side] = dict.fromkeys(_POINT, None) | {"rate": 0.0}
                continue
            trials = requests * 10
            seen = max(noise.gauss(rate, math.sqrt(rate * (1 - rate) / trials)), 0.0)
            wide = 2.6 * math.sqrt((seen + 2 / trials) / (trials * 3)) + 1.2 / (trials * 3)
            p95 = 0.048 * day * slow * noise.gauss(1, min(0.5 / math.sqrt(requests), 0.3))
            spread = min(1.2 / math.sqrt(requests), 0.6)
            sides[side] = {
                "rate": round(requests, 1),
                "error_rate": seen,
                "error_low": max(seen - wide, 0.0),
                "error_high": min(seen + wide * 1.4, 1.0),
                "p50": p95 * 0.26,
                "p95": p95,
                "p95_low": p95 * (1 - spread * 0.6),
                "p95_high": p95 * (1 + spread),
                "p99": p95 * 1.9,
            }
        sides["evidence"] = {
            m["metric"]: m["log_evidence"] for m in self.document["metrics"] if m["comparable"]
        }
        return sides

    def endpoints(self) -> Document:
        """Return the figures of the endpoints that the document names."""
        rows = []
        for variant in ("stable", "canary"):
            for one in (self.document["variants"][variant] or {"endpoints": []})["endpoints"]:
                up = one["usable"]
                counts = {
                    "requests": 1234,
                    "failed": 0 if up else 34,
                    "codes": {"2xx": 1200} | ({} if up else {"5xx": 30}),
                    "errors": {} if up else {"reset": 4},
                }
                rows.append(
                    {
                        "variant": variant,
                        "url": one["url"],
                        "up": up,
                        "workers": 4,
                        "ejected_by": 0 if up else 1,
                        "in_flight": one["in_flight"],
                        "last_error": None if up else "connection closed without a response",
                        "total": counts,
                        "recent": {**counts, "seconds": 64.0, "p95": 0.048},
                    }
                )
        return {"time": time.time(), "endpoints": rows, "at_fault": []}

    @property
    def routes(self) -> Document:
        """Return the figures of two routes."""
        side = {"requests": 940, "failed": 3, "codes": {"2xx": 937, "5xx": 3}, "p95": 0.04}
        rows = [
            {"route": name, "level": level, "stable": side, "canary": {**side, "p95": None}}
            for name, level in (("GET /cart/*", "ok"), ("POST /checkout", "suspect"))
        ]
        return {"time": time.time(), "seconds": 64.0, "share": 0.5, "routes": rows}

    def record(self, t: float, what: str, cause: str, **figures: Any) -> Document:
        """Write the next record."""
        number = len(self.records) + 1
        record = {"id": number, "time": t, "what": what, "cause": cause, "figures": figures}
        self.records.append(record)
        self.document["history_id"] = number
        return record

    def now(self) -> None:
        """Let the variants' figures and the time be those of the newest point."""
        self.document["time"] = time.time()
        for side in ("stable", "canary"):
            variant, newest = self.document["variants"][side], self.points and self.points[-1]
            if variant and newest:
                variant.update({key: newest[side][key] for key in _SHOWN})


_SHOWN = ("rate", "error_rate", "p50", "p95", "p99")
_POINT = (*_SHOWN, "error_low", "error_high", "p95_low", "p95_high")


def metric(
    name: str,
    log_evidence: float = -0.4,
    *,
    level: str = "ok",
    stable: tuple[int, int] = (9800, 49),
    canary: tuple[int, int] = (510, 3),
    interval: tuple[float | None, float | None] = (0.6, 1.4),
    proven: bool = False,
    limit: float | None = LIMIT,
    comparable: bool = True,
    reason: str | None = None,
    users: tuple[int, int, int] | None = None,
    route: str | None = None,
    worse: bool = False,
    accepted: bool = False,
) -> Document:
    """Return a metric of the release document."""
    rates = [events / trials if trials else 0.0 for trials, events in (stable, canary)]
    if reason is None:
        reason = (
            f"{name} {text.percent(rates[1])} on canary ({canary[1]:,} of {canary[0]:,}) vs "
            f"{text.percent(rates[0])} on stable ({stable[1]:,} of {stable[0]:,}); no regression seen"
        )
    known = f"{canary[1]:,} of {canary[0]:,} requests"
    if users is not None:
        known = f"{users[2]:,} of {users[1]:,} users, {known}"
    return {
        "metric": name,
        "route": route,
        "users": None
        if users is None
        else dict(zip(("stable", "canary", "hurt"), users, strict=True)),
        "trips": limit is not None,
        "timing": None,
        "worse": worse,
        "accepted": accepted,
        "known": known,
        "level": level,
        "evidence": math.exp(log_evidence),
        "log_evidence": log_evidence,
        "limit": limit,
        "hold_limit": HOLD_LIMIT,
        "log_proof": 1.2,
        "proven": proven,
        "comparable": comparable,
        "stable": {"trials": stable[0], "events": stable[1]},
        "canary": {"trials": canary[0], "events": canary[1]},
        "difference": rates[1] - rates[0],
        "ratio": rates[1] / rates[0] if rates[0] and comparable else None,
        "interval": list(interval),
        "reason": reason,
    }


def _variant(ports: list[int], requests: int, failed: int, in_flight: int) -> Document:
    return {
        "requests": requests,
        "failed": failed,
        "shed": 0,
        "in_flight": in_flight,
        "rate": 0.0,
        "error_rate": None,
        "p50": None,
        "p95": None,
        "p99": None,
        "long_lived": {"tunnels": 0, "streams": 0, "leaving": 0, "until": None},
        "endpoints": [
            {"url": f"http://10.0.3.{port}:9001", "usable": True, "in_flight": in_flight // 2}
            for port in ports
        ],
    }


def idle() -> Scene:
    """No release, the canary without users."""
    now = time.time()
    scene = Scene(
        {
            "release": None,
            "state": "idle",
            "weight": 0.0,
            "step": 0,
            "steps": [],
            "promote": "bake",
            "since": now - 4000,
            "baked": 0.0,
            "requests": 0,
            "users": 0,
            "hold": None,
            "holds": [],
            "accepted": [],
            "ready": False,
            "gate": None,
            "allowed": ["weight", "trip"],
            "circuit": {
                "state": "closed",
                "cause": None,
                "trips": 0,
                "since": now - 4000,
                "cooldown_left": None,
                "drill": False,
            },
            "level": "ok",
            "quiet": "the canary has no traffic",
            "judged": 0,
            "answered": 0,
            "metrics": [
                metric(
                    name,
                    0.0,
                    stable=(0, 0),
                    canary=(0, 0),
                    interval=(None, None),
                    comparable=False,
                    reason=f"{name} cannot be judged: the canary has no traffic",
                )
                for name in ("errors", "latency", "throughput")
            ],
            "routes": 0,
            "placebo": None,
            "variants": {
                "stable": _variant([11, 12], 812_345, 4061, 3),
                "canary": _variant([21], 0, 0, 0),
            },
            "config": {
                "file": "/etc/canaryproxy.yaml",
                "loaded_at": now - 4000,
                "error": None,
                "restart_needed": [],
            },
            "unsaved": None,
            "history_id": 0,
            "environment": "production",
            "host": "edge-3",
            "version": "0.1.0",
            "time": now,
        }
    )
    _fill(scene, now, [(0.0, 0.0)])
    return scene


def no_canary() -> Scene:
    """A proxy that has only stable."""
    scene = idle()
    scene.document["variants"]["canary"] = None
    scene.document["metrics"] = []
    scene.document["allowed"] = []
    for point in scene.points:
        point["canary"] = None
        point["share"] = None
    return scene


def healthy() -> Scene:
    """In the third step of a release that goes well."""
    now = time.time()
    scene = idle()
    document = scene.document
    document.update(
        release="cart-2.4",
        state="running",
        weight=25.0,
        step=3,
        steps=[dict(step) for step in PLAN],
        since=now - 192,
        baked=192.0,
        requests=9600,
        hold="bake time 3 min 12 s of 10 min",
        allowed=list(RUNNING),
        quiet=None,
        judged=12512,
        answered=12530,
        metrics=[
            metric(
                "errors",
                -0.22,
                stable=(231_840, 1159),
                canary=(12_510, 66),
                interval=(0.74, 1.36),
                proven=True,
            ),
            metric(
                "latency",
                0.9,
                stable=(231_840, 11_590),
                canary=(12_510, 655),
                interval=(0.89, 1.18),
                proven=True,
            )
            | {"timing": TIMING},
            metric(
                "throughput",
                -1.6,
                stable=(231_840, 4),
                canary=(12_510, 0),
                interval=(None, 4.2),
                proven=True,
            ),
            metric("business", 0.3, stable=(20_400, 611), canary=(1102, 33), interval=(0.55, None)),
            metric(
                "client_errors",
                -0.7,
                stable=(231_840, 2318),
                canary=(12_510, 121),
                interval=(0.8, 1.2),
                limit=None,
            ),
        ],
    )
    document["variants"] = {
        "stable": _variant([11, 12], 1_044_185, 5220, 8),
        "canary": _variant([21, 22], 12_530, 66, 3),
    }
    scene.record(now - 1500, "release", "cart-2.4 replaces cart-2.3", step=1, steps=5, weight=0.0)
    scene.record(now - 1440, "started", "by ann", step=1, steps=5, weight=1.0, baked=0.0)
    scene.record(
        now - 842,
        "step",
        "next step: no regression in 1,164 canary requests over 300 s",
        step=2,
        steps=5,
        weight=5.0,
        baked=0.0,
    )
    scene.record(
        now - 700,
        "suspect",
        "slow responses 9.23% on canary (12 of 130) vs 5.00% on stable (130 of 2,600); "
        "evidence 112:1 (holds at 100:1, trips at 5,000:1)",
        metric="latency",
        evidence=112.0,
    )
    scene.record(now - 640, "cleared", "no suspect metric for 30 s", metric="latency")
    scene.record(
        now - 560,
        "drill",
        "by ann: the canary's last request came 13 ms after the trip",
        seconds_to_last_request=0.013,
        weight=5.0,
        requests_after=0,
    )
    scene.record(now - 430, "reload", "limits.idle_timeout")
    scene.record(
        now - 192,
        "step",
        "next step: no regression in 4,021 canary requests over 300 s",
        step=3,
        steps=5,
        weight=25.0,
        baked=0.0,
    )
    scene.points = []
    _fill(scene, now, [(-1800, 0.0), (-1440, 1.0), (-842, 5.0), (-192, 25.0)])
    return scene


def suspect() -> Scene:
    """Held, because the canary looks slower."""
    scene = healthy()
    document, now = scene.document, time.time()
    reason = (
        "slow responses 6.31% on canary (790 of 12,510) vs 5.00% on stable (11,590 of 231,840) "
        "in 3 min 12 s of this step; evidence 940:1 (holds at 100:1, trips at 5,000:1)"
    )
    document.update(
        hold="suspect: latency", level="suspect", baked=0.0, since=now - 192, requests=9600
    )
    document["metrics"][1].update(
        metric(
            "latency",
            6.85,
            level="suspect",
            stable=(231_840, 11_590),
            canary=(12_510, 790),
            interval=(1.08, 1.5),
            reason=reason,
        )
    )
    document["metrics"][0]["proven"] = False
    document["variants"]["canary"]["endpoints"][1]["usable"] = False
    document["config"]["error"] = (
        "/etc/canaryproxy.yaml:14:7: split.weight: found 250, allowed is 0 to 100"
    )
    document["config"]["restart_needed"] = ["listen", "workers"]
    scene.record(now - 25, "suspect", reason, metric="latency", evidence=940.0)
    scene.slowness = 1.5
    scene.points = [
        point if point["t"] < now - 60 else scene.point(point["t"], 25.0) for point in scene.points
    ]
    return scene


def held() -> Scene:
    """Few users, all families of metrics, a route that stands out, and an operator who accepted the 401s."""
    scene = healthy()
    document, now = scene.document, time.time()
    worse = (
        "looks worse: error rate on GET /checkout 9.76% on canary (4 of 41 requests, 1 of 7 users) vs 0.20% "
        "on stable (9 of 4,410)"
    )
    blind = (
        "outcome empty_search is blind: 96.0% of 1,204 stable responses could not be looked into"
    )
    document.update(
        hold=f"{worse}; {blind}",
        holds=[worse, blind],
        accepted=["client_errors", "errors GET /old"],
        users=7,
        requests=410,
        routes=31,
        placebo={
            "tripped": 0,
            "of": 20,
            "log_evidence": 2.48,
            "said": "0 of 20 virtual canaries would have tripped; evidence at most 12:1",
        },
        metrics=[
            metric(
                name,
                log_evidence,
                limit=limit,
                stable=(8120, events * 20),
                canary=(410, events),
                users=(760, 7, min(events, 3)),
                accepted=name == "client_errors",
            )
            for name, log_evidence, events, limit in (
                ("errors", 1.1, 4, 10.9),
                ("latency", 0.2, 19, 11.1),
                ("latency_p50", -0.3, 201, None),
                ("latency_p95", 0.1, 2, None),
                ("latency_p99", 0.0, 1, None),
                ("throughput", -0.1, 0, 11.8),
                ("client_errors", 6.2, 98, 13.1),
                ("redirects", 0.0, 3, 13.1),
                ("empty", 0.0, 1, 13.1),
                ("success", -0.2, 310, 13.1),
                ("connections", 0.0, 0, 13.0),
                ("size", 0.3, 6, None),
                ("content_type", 0.0, 0, None),
                ("empty_search", 0.0, 0, 12.4),
            )
        ],
    )
    document["metrics"].append(
        metric(
            "errors",
            2.3,
            route="GET /checkout",
            limit=15.2,
            stable=(4410, 9),
            canary=(41, 4),
            users=(410, 7, 1),
            worse=True,
        )
    )
    scene.record(
        now - 60,
        "accepted",
        "client_errors by ann: the login is required now",
        metric="client_errors",
        step=3,
        steps=5,
        weight=25.0,
    )
    return scene


TRIP_CAUSE = (
    "error rate 38.9% on canary (74 of 190) vs 0.50% on stable (3 of 600) in the 8 s since the rate rose; "
    "evidence 121,000:1 (limit 5,000:1), difference over the 1% margin"
)


def trip(scene: Scene, ago: float = 0.0, cause: str = TRIP_CAUSE) -> None:
    """Open the circuit."""
    now = time.time() - ago
    document = scene.document
    before = document["weight"]
    document.update(
        state="tripped",
        weight=0.0,
        since=now,
        hold=cause,
        level="breach",
        quiet="the canary has no traffic" if ago else None,
        allowed=["reset", "abort"],
        circuit={
            "state": "open",
            "cause": cause,
            "trips": 1,
            "since": now,
            "cooldown_left": None,
            "drill": False,
        },
    )
    document["metrics"][0].update(
        metric(
            "errors",
            11.7,
            level="breach",
            stable=(231_840, 1159),
            canary=(12_700, 140),
            interval=(1.8, 2.7),
            reason=cause,
        )
    )
    scene.record(now, "tripped", cause, metric="errors", evidence=1.2e5)
    scene.record(now, "stopped", cause, step=document["step"], steps=5, weight=before, baked=192.0)


def tripped() -> Scene:
    """The canary broke three minutes ago."""
    scene = healthy()
    now = time.time()
    trip(scene, ago=176)
    points = []
    for point in scene.points:
        t = point["t"]
        if t > now - 176:
            points.append(scene.point(t, 0.0))
        elif t > now - 182:
            scene.error_rates = (0.005, 0.39)
            points.append(scene.point(t, 25.0))
            scene.error_rates = (0.005, 0.005)
        else:
            points.append(point)
    scene.points = points
    scene.document["variants"]["canary"]["long_lived"] = {
        "tunnels": 38,
        "streams": 3,
        "leaving": 41,
        "until": now + 124,
    }
    scene.now()
    return scene


def probing() -> Scene:
    """Half open: a small weight probes."""
    scene = tripped()
    now = time.time()
    scene.document.update(
        state="probing",
        weight=1.0,
        since=now - 20,
        hold="probing",
        quiet=None,
        allowed=["reset", "abort"],
    )
    scene.document["circuit"].update(state="half_open", since=now - 20)
    scene.record(now - 20, "probing", "the cool-down has passed", trips=1)
    return scene


def ready() -> Scene:
    """``promote: manual``: waits for an operator."""
    scene = healthy()
    scene.document.update(
        promote="manual",
        ready=True,
        baked=600.0,
        requests=30_100,
        hold="ready for the next step: resume or promote",
        gate={"state": "passed", "cause": "http://127.0.0.1:9911/may-promote: go"},
        allowed=["resume", *RUNNING],
    )
    return scene


def paused() -> Scene:
    """Stopped by hand at another weight than the plan's."""
    scene = healthy()
    now = time.time()
    scene.document.update(
        state="paused",
        weight=7.5,
        since=now - 30,
        hold="weight set to 7.5% by ann",
        allowed=["resume", "promote", "abort", "weight", "trip", "drill"],
        unsaved="/var/lib/canaryproxy/state.json: No space left on device",
        quiet="stable has no traffic",
    )
    scene.record(now - 30, "weight", "25% to 7.5% by ann", step=3, steps=5, weight=7.5, baked=162.0)
    scene.points = [
        point if point["t"] < now - 30 else scene.point(point["t"], 7.5) for point in scene.points
    ]
    return scene


def promoted() -> Scene:
    """Every user is on the canary."""
    scene = healthy()
    now = time.time()
    scene.document.update(
        state="promoted",
        weight=100.0,
        step=5,
        since=now - 100,
        hold=None,
        baked=0.0,
        quiet="stable has no traffic",
        allowed=["abort", "weight", "trip"],
    )
    for what, ago, cause, step, weight in (
        ("step", 190, "baked 600 s", 4, 50.0),
        ("step", 140, "baked 600 s", 5, 100.0),
        ("promoted", 100, "the last step is done", 5, 100.0),
    ):
        scene.record(now - ago, what, cause, step=step, steps=5, weight=weight, baked=0.0)
    scene.points = []
    _fill(
        scene,
        now,
        [(-1800, 0.0), (-1440, 1.0), (-842, 5.0), (-400, 25.0), (-190, 50.0), (-140, 100.0)],
    )
    return scene


def _fill(
    scene: Scene, now: float, weights: list[tuple[float, float]], seconds: int = 1800
) -> None:
    for ago in range(-seconds, 1):
        weight = [weight for begin, weight in weights if begin <= ago or begin == 0.0][-1]
        scene.points.append(scene.point(now + ago, weight))
    scene.now()


SCENES = {
    made.__name__: made
    for made in (
        healthy,
        suspect,
        held,
        tripped,
        probing,
        ready,
        paused,
        promoted,
        idle,
        no_canary,
    )
}
