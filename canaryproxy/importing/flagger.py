"""Flagger: a Canary with weights (``stepWeight``), A/B testing (``match``) or blue/green (``iterations``)."""

from __future__ import annotations

from typing import Final

from canaryproxy.config.units import duration_text
from canaryproxy.importing import kubernetes
from canaryproxy.importing.draft import Draft
from canaryproxy.importing.fields import Field
from canaryproxy.importing.rules import Condition, joined, string_test
from canaryproxy.importing.shares import STAYS, Wanted, choose_split

_DEPLOYS: Final = (
    "canaryproxy does not deploy",
    "deploy the canary beside stable as before, and give each build its release.id",
)
_REASONS: Final = {
    "provider": (
        "canaryproxy shifts the traffic itself",
        "remove the mesh's route of this service",
    ),
    "targetRef": _DEPLOYS,
    "autoscalerRef": _DEPLOYS,
    "ingressRef": ("canaryproxy shifts the traffic itself", "point the Ingress at it"),
    "routeRef": ("canaryproxy shifts the traffic itself", "point the route at it"),
    "progressDeadlineSeconds": (
        "a canary that accepts no connection is rolled back after judge.not_up",
        "set judge.not_up",
    ),
    "alerts": ("they name objects of Flagger", "set notify: [{webhook: URL, format: slack}]"),
    "threshold": (
        "the circuit opens when a regression is proven, not after a count of checks",
        "see judge.alpha",
    ),
    "stepWeightPromotion": (
        "a promotion moves no traffic back to stable",
        "deploy the new version as stable after the promotion",
    ),
    "retries": (
        "stable answers in place of a failing canary (rescue), by rules of its own",
        "see rescue",
    ),
    "hosts": ("one proxy serves one service, whatever the host", "route hosts in front"),
    "gateways": ("canaryproxy listens itself", "see listen"),
    "suspend": ("a release is paused while it runs", "canaryproxy pause"),
}
_GATES: Final = ("confirm-rollout", "confirm-traffic-increase", "confirm-promotion")
_HOOKS: Final = {
    "pre-rollout": "run it in the pipeline before the release starts",
    "rollout": "run it in the pipeline while the release runs",
    "post-rollout": "run it in the pipeline after canaryproxy wait --for promoted",
    "rollback": "let it call canaryproxy trip",
}


def is_one(document: Field) -> bool:
    """Tell whether a document is a Canary of Flagger."""
    return kubernetes.is_kind(document, "Canary", "flagger.app")


def convert(documents: list[Field], wanted: Wanted, draft: Draft) -> None:
    """Add what a Canary says to a draft."""
    found = [one for one in documents if is_one(one)]
    names = [(kubernetes.name_of(one), one.place) for one in found]
    at = choose_split(names, wanted, documents[0].place, "a Canary of flagger.app")
    document = found[at]
    name = names[at][0]
    _hosts(document, draft)
    _endpoints(document, documents, draft)
    spec = document.need("spec")
    analysis = spec.get("analysis") or spec.get("canaryAnalysis")
    if analysis is None:
        raise spec.place.error("expected analysis, found none")
    _strategy(name, analysis, draft)
    _metrics(analysis, draft)
    _webhooks(analysis, draft)
    timeout = spec.get("service", "timeout")
    if timeout is not None:
        draft.duration(
            "limits.first_byte_timeout", timeout.seconds(), timeout.place, "service.timeout"
        )
    _affinity(analysis, draft)
    kubernetes.take_metadata(document)
    document.take("metadata")
    draft.report_unread(document, _REASONS)
    kubernetes.others(documents, [document], draft)


def _hosts(document: Field, draft: Draft) -> None:
    """Add the hosts of one of several services: those that it names, or its names in the cluster."""
    if draft.service is None:
        return
    spec = document.need("spec")
    service = spec.need("service")
    hosts = service.items("hosts")
    for one in hosts:
        draft.add("hosts", one.text(), one.place, "service.hosts")
    if hosts:
        return
    named = service.get("name") or spec.need("targetRef", "name")
    for name in kubernetes.cluster_names(named.text(), kubernetes.namespace_of(document)):
        draft.add("hosts", name, named.place, f"the Service {named.text()}")


def _endpoints(document: Field, documents: list[Field], draft: Draft) -> None:
    """Add the Services that Flagger makes: ``NAME-primary`` and ``NAME-canary``."""
    spec = document.need("spec")
    service = spec.need("service")
    named = service.get("name") or spec.need("targetRef", "name")
    spec.take("targetRef")
    service.take(
        "targetPort", "portName", "portDiscovery", "appProtocol", "apex", "primary", "canary"
    )
    port = service.need("port")
    namespace = kubernetes.namespace_of(document)
    for variant, end in (("stable", "primary"), ("canary", "canary")):
        one = f"{named.text()}-{end}"
        url = kubernetes.endpoint(one, namespace, port, documents, draft, port.place)
        draft.add(
            f"variants.{variant}.endpoints", url, port.place, f"the Service {one}, service.port"
        )


def _strategy(name: str, analysis: Field, draft: Draft) -> None:
    interval = analysis.get("interval")
    seconds = interval.seconds() if interval is not None else 60.0
    at = (interval or analysis).place
    iterations = analysis.get("iterations")
    mirror = analysis.get("mirror")
    weight = analysis.get("mirrorWeight")
    if mirror is not None and mirror.flag():
        percent = 100.0 if weight is None else weight.number(0, 100)
        draft.set("mirror.percent", percent, mirror.place, "mirror, of GET and HEAD here")
        draft.differs(
            mirror.place,
            "Flagger mirrors for one interval before the first step; here mirroring goes on until you end it",
        )
    match = analysis.items("match")
    for one in match:
        _rule(one, draft)
    if iterations is not None and iterations.number() > 0:
        _without_weights(iterations, bool(match), draft)
        return
    steps = _weights(analysis, draft)
    draft.set(
        "release.id", f"{name}-1", analysis.place, "metadata.name; give each build its own id"
    )
    for field, value in steps:
        if value < 100.0:
            step = {"weight": value, "bake": duration_text(seconds)}
            draft.add(
                "release.steps", step, field.place, f"a step, and the interval in line {at.line}"
            )
    draft.add("release.steps", {"weight": 100}, analysis.place, "the promotion")


def _without_weights(iterations: Field, matches: bool, draft: Draft) -> None:
    """A/B testing forces users, and blue/green moves all at once: neither has weights."""
    if matches:
        draft.set("split.weight", 0, iterations.place, "iterations and match: A/B testing")
        draft.no_equivalent(
            iterations.place,
            "iterations of A/B testing",
            "users who are forced onto the canary are not randomised, so nothing can be compared",
            "add release.steps for a comparison, or promote by hand: canaryproxy weight 100",
        )
        return
    draft.set("split.weight", 0, iterations.place, "iterations: blue/green")
    draft.no_equivalent(
        iterations.place,
        "iterations of blue/green",
        "users judge a release here, and no user is on the canary before the switch",
        "add release.steps, or switch by hand: canaryproxy weight 100",
    )


def _weights(analysis: Field, draft: Draft) -> list[tuple[Field, float]]:
    """Return the weights of the steps below the promotion."""
    steps = analysis.items("stepWeights")
    most = analysis.get("maxWeight")
    highest = most.number(0, 100) if most is not None and most.number(0, 1e6) > 0 else 100.0
    found: list[tuple[Field, float]] = []
    if steps:
        for one in steps:
            weight = one.number(0, 1e6)
            if found and weight <= found[-1][1]:
                draft.no_equivalent(
                    one.place, f"the step {weight:g}", "weights rise", "it is left out"
                )
            elif weight > 0:
                found.append((one, min(weight, 100.0)))
        return found
    width = analysis.get("stepWeight")
    if width is None or width.number(0, 100) <= 0:
        raise analysis.place.error(
            "expected stepWeight, stepWeights or iterations, found none: the Canary has no steps"
        )
    weight = 0.0
    while weight < highest:
        weight = min(weight + width.number(0.01, 100), highest)
        found.append((width if weight < highest else (most or width), round(weight, 2)))
    return found


def _rule(match: Field, draft: Draft) -> None:
    """Add the rule of one entry of ``match``: all of its conditions have to hold."""
    conditions: list[Condition] = []
    why = ""
    for key, kind in (("headers", "header"), ("queryParams", "query")):
        for name, one in match.entries(key).items():
            test = _string_test(one)
            if test is None:
                why = f"a rule has no such condition on {name}"
            else:
                conditions.append({kind: {"name": name, **test}})
    if match.get("sourceLabels") is not None:
        why = "clients have no labels here"
    if (method := match.get("method", "exact")) is not None:
        conditions.append({"method": method.text()})
    if (uri := match.get("uri")) is not None and (test := _string_test(uri)) is not None:
        conditions.append({"path": test})
    why = why or ("" if conditions else "it names no header")
    if why:
        match.take()
        draft.no_equivalent(
            match.place, "an entry of match", why, "force the canary with a header (split.match)"
        )
        return
    draft.add("split.match", {"variant": "canary", **joined(conditions)}, match.place, "match")


def _string_test(one: Field) -> dict[str, object] | None:
    """Return the test of a string match of Istio."""
    for kind in ("exact", "prefix", "regex"):
        if (found := one.get(kind)) is not None:
            return string_test(kind, found.text())
    return None


def _metrics(analysis: Field, draft: Draft) -> None:
    for one in analysis.items("metrics"):
        name = one.need("name").text()
        span = one.get("thresholdRange")
        least = (span.get("min") if span is not None else None) or (
            one.get("threshold") if name == "request-success-rate" else None
        )
        one.take("interval")
        if name == "request-success-rate" and least is not None:
            share = f"{100.0 - least.number(0, 100):.10g}%"
            draft.set("judge.guard_rails.errors", share, least.place, "request-success-rate")
            draft.set(
                "judge.guard_rails.min_requests", 100, least.place, "before the limit applies"
            )
            continue
        one.take()
        if name == "request-duration":
            draft.no_equivalent(
                one.place, "the fixed limit of request-duration",
                "the canary's latency is compared with stable's of the moment",
                "set judge.metrics.latency.margin",
            )  # fmt: skip
        else:
            draft.no_equivalent(
                one.place, f"the metric {name}", "canaryproxy asks no metrics server",
                "count it with judge.outcomes, or let a gate ask",
            )  # fmt: skip


def _webhooks(analysis: Field, draft: Draft) -> None:
    for one in analysis.items("webhooks"):
        kind_at = one.get("type")
        kind = kind_at.text() if kind_at is not None else "rollout"
        url = one.need("url")
        named = one.get("name")
        origin = f"webhook {named.text() if named else ''} ({kind})"
        one.take()
        if kind in _GATES and draft.has("release.steps"):
            draft.add("release.gates", {"webhook": url.text()}, url.place, origin)
            draft.differs(
                url.place,
                f"{origin}: a gate is asked before each next step, with a payload of ours",
            )
        elif kind == "event":
            draft.add("notify", {"webhook": url.text()}, url.place, origin)
        else:
            instead = _HOOKS.get(kind, "call it from your pipeline")
            draft.no_equivalent(one.place, origin, "canaryproxy runs no tests", instead)


def _affinity(analysis: Field, draft: Draft) -> None:
    affinity = analysis.get("sessionAffinity")
    if affinity is None:
        if draft.has("release.steps"):
            draft.differs(
                analysis.place, f"without sessionAffinity each request is routed anew; {STAYS}"
            )
        return
    age = affinity.get("maxAge")
    if age is not None:
        draft.set(
            "split.sticky.max_age", duration_text(age.number()), age.place, "sessionAffinity.maxAge"
        )
    affinity.take()
    draft.differs(
        affinity.place,
        "the cookie of sessionAffinity names a version; ours names the user, so that a trip moves all users",
    )
