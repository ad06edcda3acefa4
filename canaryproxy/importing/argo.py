"""Argo Rollouts: the steps of a Rollout, and its analysis as far as it maps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from canaryproxy.config.units import duration_text
from canaryproxy.importing import kubernetes
from canaryproxy.importing.draft import Draft
from canaryproxy.importing.fields import Field
from canaryproxy.importing.rules import string_test
from canaryproxy.importing.shares import STAYS, Wanted, choose_split

_GROUP: Final = "argoproj.io"
_DEPLOYS: Final = (
    "canaryproxy does not deploy and does not scale",
    "deploy the canary beside stable, and give each build its release.id",
)
_REASONS: Final = {
    "trafficRouting": (
        "canaryproxy shifts the traffic itself",
        "remove the mesh's route of this service",
    ),
    "setCanaryScale": _DEPLOYS,
    "maxSurge": _DEPLOYS,
    "maxUnavailable": _DEPLOYS,
    "dynamicStableScale": _DEPLOYS,
    "antiAffinity": _DEPLOYS,
    "canaryMetadata": _DEPLOYS,
    "stableMetadata": _DEPLOYS,
    "experiment": (
        "there are two versions",
        "let the canary take a small weight, it is compared with stable",
    ),
    "plugin": ("canaryproxy runs no plugins", "let a gate (release.gates) or the pipeline do it"),
    "replaceProgressDeadlineAbort": _DEPLOYS,
}
_POD: Final = (
    *("replicas", "selector", "template", "workloadRef", "revisionHistoryLimit", "minReadySeconds"),
    *("progressDeadlineSeconds", "progressDeadlineAbort", "paused", "restartAt", "rollbackWindow"),
)
_SUCCESS = re.compile(r"result(?:\[0\])?\s*(>=?)\s*([0-9.]+)")
_FAILURE = re.compile(r"result(?:\[0\])?\s*(<=?)\s*([0-9.]+)")
_LATENCY = re.compile(r"(?i)latency|duration|quantile|seconds_bucket|response.?time|p9[059]")
_ERRORS = re.compile(r"(?i)error|success|5\.\.|5xx|status|code|fail|availab")


def is_one(document: Field) -> bool:
    """Tell whether a document is a Rollout."""
    return kubernetes.is_kind(document, "Rollout", _GROUP)


def convert(documents: list[Field], wanted: Wanted, draft: Draft) -> None:
    """Add what a Rollout says to a draft."""
    found = [one for one in documents if is_one(one)]
    names = [(kubernetes.name_of(one), one.place) for one in found]
    at = choose_split(names, wanted, documents[0].place, "a Rollout of argoproj.io")
    document, name = found[at], names[at][0]
    strategy = document.need("spec", "strategy")
    canary = strategy.get("canary")
    if canary is None:
        raise strategy.place.error(
            f"expected strategy.canary, found {', '.join(strategy.value) or 'none'}: blueGreen has no weights"
        )
    templates = {
        kubernetes.name_of(one): one
        for one in documents
        if kubernetes.is_kind(one, "AnalysisTemplate", _GROUP)
        or kubernetes.is_kind(one, "ClusterAnalysisTemplate", _GROUP)
    }
    _endpoints(document, canary, documents, draft)
    routes = _hosts(document, canary, documents, draft) if draft.service is not None else []
    reading = _Reading(canary, templates, draft)
    reading.steps()
    reading.finish(name, _tag(document))
    reading.background()
    _leave(document, draft)
    read = [document, *reading.used, *routes]
    for one in reading.used:
        kubernetes.take_metadata(one)
        one.take("metadata")
        draft.report_unread(one, {})
    kubernetes.others(documents, read, draft)


def _leave(document: Field, draft: Draft) -> None:
    """Note what the Rollout says of pods, in one line, and what nothing has read."""
    spec = document.need("spec")
    pods = [name for name in _POD if spec.has(name)]
    if pods:
        draft.no_equivalent(spec.place, ", ".join(pods), *_DEPLOYS)
    spec.take(*pods)
    kubernetes.take_metadata(document)
    document.take("metadata")
    draft.report_unread(document, _REASONS)


def _tag(document: Field) -> str:
    """Return the tag of the first container's image; empty if there is none."""
    containers = document.get("spec", "template", "spec", "containers")
    image = containers.items()[0].get("image") if containers and containers.items() else None
    tag = image.text().rpartition(":")[2] if image is not None and ":" in image.text() else ""
    return tag if re.fullmatch(r"[A-Za-z0-9._-]{1,40}", tag) else ""


def _endpoints(document: Field, canary: Field, documents: list[Field], draft: Draft) -> None:
    name, namespace = kubernetes.name_of(document), kubernetes.namespace_of(document)
    for variant in ("stable", "canary"):
        at = canary.get(f"{variant}Service")
        service = f"{name}-{variant}" if at is None else at.text()
        place = canary.place if at is None else at.place
        if at is None:
            draft.no_equivalent(
                place,
                f"no {variant}Service",
                "the weight is not that of the pods here: each version needs an address",
                f"create the Service {service}",
            )
        url = kubernetes.endpoint(service, namespace, None, documents, draft, place)
        draft.add(f"variants.{variant}.endpoints", url, place, f"{variant}Service {service}")


def _hosts(document: Field, canary: Field, documents: list[Field], draft: Draft) -> list[Field]:
    """Add the hosts of one of several Rollouts: those of its routes, or the names of its stable Service.

    Returns the objects that name them.
    """
    routed = {
        name
        for keys in _ROUTES
        if (at := _peek(canary, "trafficRouting", *keys)) is not None
        for name in ([str(at.value)] if not isinstance(at.value, list) else _names(at))
    }
    found: list[Field] = []
    for one in documents:
        if kubernetes.is_kind(one, "VirtualService") and kubernetes.name_of(one) in routed:
            hosts = one.need("spec").items("hosts")
        elif kubernetes.is_kind(one, "Ingress") and kubernetes.name_of(one) in routed:
            rules = one.need("spec").items("rules")
            hosts = [host for rule in rules if (host := rule.get("host")) is not None]
        else:
            continue
        for host in hosts:
            draft.add("hosts", host.text(), host.place, f"a host of {kubernetes.name_of(one)}")
            found.append(one)
    if found:
        return found
    named = canary.get("stableService") or document.need("metadata", "name")
    names = kubernetes.cluster_names(named.text(), kubernetes.namespace_of(document))
    for name in names:
        draft.add("hosts", name, named.place, f"the Service {named.text()}")
    draft.differs(
        named.place,
        f"the hosts of {draft.service} are the names of its stable Service in the cluster: pass the"
        " VirtualService or Ingress, too, or set hosts",
    )
    return []


_ROUTES: Final = (
    ("istio", "virtualService", "name"),
    ("istio", "virtualServices"),
    ("nginx", "stableIngress"),
    ("nginx", "stableIngresses"),
    ("alb", "ingress"),
)
"""The keys of trafficRouting that name objects with hosts."""


def _peek(field: Field, *keys: str) -> Field | None:
    """Return a value below some keys, and do not count it as read."""
    for key in keys:
        if not field.has(key):
            return None
        field = field.value[key]
    return field


def _names(items: Field) -> list[str]:
    """Return the items of a list: names, or mappings with one."""
    names = (_peek(one, "name") or one for one in items.value)
    return [str(one.value) for one in names]


@dataclass(slots=True)
class _Reading:
    """Reads the steps in order."""

    canary: Field
    templates: dict[str, Field]
    draft: Draft
    plan: list[tuple[float, float, Field]] = field(default_factory=list)
    """Weight, bake time and the step of the source."""
    by_hand: Field | None = None
    """A pause without a duration."""
    used: list[Field] = field(default_factory=list)

    def steps(self) -> None:
        """Read the steps."""
        for step in self.canary.items("steps"):
            if (weight := step.get("setWeight")) is not None:
                self._weight(weight.number(0, 100), step)
            elif step.has("pause"):
                self._pause(step)
            elif (analysis := step.get("analysis")) is not None:
                self._bake(self._analysis(analysis), step, "analysis")
            elif (route := step.get("setHeaderRoute")) is not None:
                self._header_route(route)
            elif (route := step.get("setMirrorRoute")) is not None:
                self._mirror_route(route)

    def finish(self, name: str, tag: str) -> None:
        """Write the release."""
        draft, place = self.draft, self.canary.place
        if not self.plan:
            raise place.error("expected steps with a setWeight above 0, found none")
        made = f"{name}-{tag}" if tag else f"{name}-1"
        draft.set("release.id", made, place, "metadata.name; give each build its own id")
        for weight, bake, step in self.plan:
            value: dict[str, Any] = {"weight": weight}
            if bake:
                value["bake"] = duration_text(bake)
            draft.add("release.steps", value, step.place, "setWeight, and the pauses after it")
        if self.plan[-1][0] < 100.0:
            draft.add("release.steps", {"weight": 100}, place, "the end of the steps")
        if self.by_hand is not None:
            draft.set("release.promote", "manual", self.by_hand.place, "pause: {}")
            if any(bake for _, bake, _ in self.plan):
                draft.differs(
                    self.by_hand.place,
                    "promote is for all steps: canaryproxy resume begins each next one, after its bake time",
                )
        draft.differs(place, f"traffic providers route each request anew; {STAYS}")

    def _weight(self, weight: float, step: Field) -> None:
        before = self.plan[-1][0] if self.plan else 0.0
        if weight > before:
            self.plan.append((weight, 0.0, step))
        elif weight < before:
            self.draft.no_equivalent(
                step.place,
                f"setWeight {weight:g} after {before:g}",
                "weights rise",
                "it is left out",
            )

    def _pause(self, step: Field) -> None:
        duration = step.get("pause", "duration")
        if duration is None:
            self.by_hand = self.by_hand or step
            return
        self._bake(duration.seconds(), step, "pause")

    def _bake(self, seconds: float, step: Field, what: str) -> None:
        if not seconds:
            return
        if not self.plan:
            self.draft.no_equivalent(
                step.place, f"{what} before the first setWeight", "no user is on the canary then",
                "judge.baseline is the time in which stable is observed",
            )  # fmt: skip
            return
        weight, bake, first = self.plan[-1]
        self.plan[-1] = (weight, bake + seconds, first)

    def _header_route(self, route: Field) -> None:
        matches = route.items("match")
        route.take("name")
        if not matches:
            self.draft.no_equivalent(
                route.place, "the end of a header route", "match rules hold for the whole release",
                "remove the rule when it has ended",
            )  # fmt: skip
        for one in matches:
            header = one.need("headerName").text()
            value = one.need("headerValue")
            for kind in ("exact", "prefix", "regex"):
                if (found := value.get(kind)) is not None:
                    test = string_test(kind, found.text()) or {}
                    rule = {"variant": "canary", "header": {"name": header, **test}}
                    self.draft.add("split.match", rule, one.place, "setHeaderRoute")
                    self.draft.differs(
                        route.place,
                        "setHeaderRoute begins with its step; a match rule holds from the start",
                    )

    def _mirror_route(self, route: Field) -> None:
        percent = route.get("percentage")
        route.take("name")
        if (match := route.get("match")) is not None:
            match.take()
            self.draft.no_equivalent(
                match.place,
                "match of a mirror route",
                "requests are copied by percentage",
                "set mirror.percent",
            )
        elif percent is None:
            return
        share = 100.0 if percent is None else percent.number(0, 100)
        if share:
            self.draft.set(
                "mirror.percent", share, route.place, "setMirrorRoute, of GET and HEAD here"
            )
            self.draft.differs(
                route.place, "setMirrorRoute begins with its step; mirroring is always on here"
            )

    def background(self) -> None:
        """Read the analysis that runs beside the steps."""
        if (analysis := self.canary.get("analysis")) is not None:
            self._analysis(analysis)
            analysis.take("startingStep")

    def _analysis(self, analysis: Field) -> float:
        """Read the templates of an analysis; return the seconds that it takes at least."""
        seconds = 0.0
        analysis.take("args")
        for one in analysis.items("templates"):
            named = one.need("templateName")
            one.take("clusterScope")
            template = self.templates.get(named.text())
            if template is None:
                self.draft.no_equivalent(
                    named.place, f"the AnalysisTemplate {named.text()}", "it is not in this input",
                    "pass it, too; the canary is compared with stable anyway",
                )  # fmt: skip
                continue
            if all(one is not template for one in self.used):
                self.used.append(template)
            template.need("spec").take("args", "dryRun", "measurementRetention")
            for metric in template.need("spec").items("metrics"):
                seconds = max(seconds, self._metric(metric))
        return seconds

    def _metric(self, metric: Field) -> float:
        """Set the guard rail of a metric of failures; return the seconds of its measurements."""
        name = metric.need("name").text()
        success, failure = metric.get("successCondition"), metric.get("failureCondition")
        condition = success or failure
        said = "" if condition is None else condition.text()
        query = ""
        for provider in metric.entries("provider").values():
            if (at := provider.get("query")) is not None:
                query = at.text()
        interval, count = metric.get("interval"), metric.get("count")
        span = 0.0
        if interval is not None and count is not None and count.text().isdigit():
            span = interval.seconds() * count.number(0, 1e5)
        metric.take()
        limit = _limit(said, fails=success is None)
        about = f"{name} {query}"
        if limit is not None and _ERRORS.search(about) and not _LATENCY.search(name):
            assert condition is not None
            self.draft.set(
                "judge.guard_rails.errors",
                f"{limit * 100:.10g}%",
                condition.place,
                f"{name}: {said}",
            )
            self.draft.set(
                "judge.guard_rails.min_requests", 100, condition.place, "before the limit applies"
            )
            self.draft.differs(
                condition.place,
                f"the query of {name}: errors are the proxy's own counts of 5xx here",
            )
        elif _LATENCY.search(about):
            self.draft.no_equivalent(
                metric.place, f"the fixed limit of the metric {name}",
                "the canary's latency is compared with stable's of the moment",
                "set judge.metrics.latency.margin",
            )  # fmt: skip
        else:
            self.draft.no_equivalent(
                metric.place, f"the metric {name}", "canaryproxy asks no metrics server",
                "count it with judge.outcomes, or let a gate ask",
            )  # fmt: skip
        return span


def _limit(condition: str, *, fails: bool) -> float | None:
    """Return the highest share of errors that a condition allows; ``None`` if it says no such thing."""
    least, most = _SUCCESS.fullmatch(condition.strip()), _FAILURE.fullmatch(condition.strip())
    found: float | None = None
    try:
        if least is not None:  # a success rate at least, or an error rate that fails
            found = float(least[2]) if fails else 1.0 - float(least[2])
        elif most is not None:
            found = 1.0 - float(most[2]) if fails else float(most[2])
    except ValueError:
        return None
    return round(found, 9) if found is not None and 0.0 < found < 1.0 else None
