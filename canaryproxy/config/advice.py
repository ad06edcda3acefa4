"""Warnings about a valid configuration: risky plans, and settings without effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from canaryproxy.config.addresses import TcpAddress, UnixAddress, is_loopback
from canaryproxy.config.model import Config, Step
from canaryproxy.config.model.service import SECTIONS
from canaryproxy.config.service_names import is_other, service_of, version_of
from canaryproxy.config.units import duration_text

SHORT_BAKE = 300.0
"""Seconds; in less time slow failures (leaks, exhausted pools) do not show."""
BIG_FIRST_STEP = 5.0
"""Percent of users; a plan should not begin with more."""
TINY = 0.1
"""Percent of users; less is more often a fraction than meant."""
MUCH_HELD = 256 * 1024**2
"""Bytes of the requests on one connection of HTTP/2."""
MANY_USERS = 2_000
"""Users; a step that needs more of them to reach its ``min_users`` may wait for ever."""

SHOWN = 5
"""Names of services in a line."""


def warnings(config: Config) -> tuple[str, ...]:
    """Return the warnings, one line each; what only some services earn begins with their names."""
    services = config.by_service()
    own = {name: _service(one) for name, one in services.items() if not is_other(name)}
    others = {
        name: _of_version(name, services, own[service_of(name)])
        for name in services
        if is_other(name)
    }
    if not config.services:
        lines = [line for of in (*own.values(), *others.values()) for line in of]
        return (*lines, *_listeners(config))
    owners: dict[str, list[str]] = {}
    for name, of_it in (own | others).items():
        for line in of_it:
            owners.setdefault(line, []).append(service_of(name))
    return (*_overridden(config), *_by_owner(owners, len(own)), *_listeners(config))


def _of_version(name: str, services: Mapping[str, Config], known: Sequence[str]) -> list[str]:
    """Return the warnings about a version beside the canary that its service has not earned already.

    Its release, weight and endpoints are those of the canary of a service of its own.
    """
    at = f"variants.others.{version_of(name)}"
    found = []
    for line in _service(services[name]):
        if line not in known:
            for ours, theirs in (
                ("variants.canary", at),
                ("release.", f"{at}.release."),
                ("split.weight", f"{at}.weight"),
            ):
                line = line.replace(ours, theirs)
            found.append(line)
    return found


def _by_owner(owners: Mapping[str, list[str]], services: int) -> Iterator[str]:
    """Yield lines with the services that they are about."""
    for line, names in owners.items():
        if len(names) == services > 1:
            yield f"every service: {line}"
        else:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{'service' if len(names) == 1 else 'services'} {', '.join(names[:SHOWN])}{more}: {line}"


def _overridden(config: Config) -> Iterator[str]:
    """Warn about sections of the top level that no service takes over, and hosts and paths in vain."""
    for name in SECTIONS:
        is_given = ("variants_" if name == "variants" else name) in config.model_fields_set
        own = [name in one.model_fields_set for one in config.services.values()]
        if is_given and own and all(own):
            yield f"{name} has no effect: every service has its own"
    for name, service in config.services.items():
        for path in service.paths:
            wider = [
                one
                for one in service.paths
                if one != path and f"{path}/".startswith(one.rstrip("/") + "/")
            ]
            if wider:
                yield f"services.{name}.paths: {path} has no effect beside {wider[0]}"


def _service(config: Config) -> tuple[str, ...]:
    """Return the warnings about one service."""
    return (
        *_without_canary(config),
        *_weights(config),
        *_plan(config),
        *_judge(config),
        *_irreversible(config),
        *_connections(config),
        *_sticky(config),
        *_following(config),
        *_rescue(config),
        *_health(config),
    )


def _weights(config: Config) -> Iterator[str]:
    """Warn about weights that were meant as fractions, or that nothing reads."""
    release, split = config.release, config.split
    is_version = is_other(config.service or "")
    if release is not None and "weight" in split.model_fields_set and not is_version:
        yield "split.weight has no effect beside release: the weights are those of release.steps"
    steps = () if release is None else release.steps
    name = "release.steps[0].weight" if steps else "split.weight"
    first = steps[0].weight if steps else split.weight
    is_tiny = 0.0 < first < TINY or (0.0 < first < 1.0 and all(one.weight <= 1.0 for one in steps))
    if is_tiny:
        yield (
            f"{name} is {first:g}% of users, 1 in {100 / first:,.0f}: weights are in percent;"
            f" if {first * 100:g}% is meant, write {first * 100:g}"
        )


def _judge(config: Config) -> Iterator[str]:
    judge = config.judge
    if not config.reversible and judge.cooldown is not None:
        yield "judge.cooldown has no effect: release.reversible is false"
    errors = judge.metrics.errors
    if errors is not None and "unit" in errors.model_fields_set:
        yield "judge.metrics.errors.unit has no effect any more, users are compared: remove it"
    if judge.guard_rails is None:
        yield "judge.guard_rails is false: a canary that fails for its few users is held, not rolled back"


def _irreversible(config: Config) -> Iterator[str]:
    if config.reversible:
        return
    if not any(not one.events or "breached" in one.events for one in config.notify):
        yield "release.reversible is false, and no webhook of notify gets breached: a regression pages no one"


def _connections(config: Config) -> Iterator[str]:
    stable, canary = config.variants.stable, config.variants.canary
    shared = (
        ()
        if canary is None
        else sorted({*map(str, stable.endpoints)} & {*map(str, canary.endpoints)})
    )
    if shared:
        yield (
            f"variants.stable and variants.canary share {', '.join(shared)}: users of the canary get stable's"
            " version there, and nothing is compared"
        )
    for name, variant in (("stable", config.variants.stable), ("canary", config.variants.canary)):
        if variant is not None and variant.tls is not None and not variant.tls.verify:
            yield (f"variants.{name}.tls.verify is false: connections to {name} can be intercepted")


def _listeners(config: Config) -> Iterator[str]:
    http2 = config.limits.http2
    held = http2.max_streams * http2.stream_window
    if held > MUCH_HELD:
        yield (
            "limits.http2: one client can make the proxy hold"
            f" {held / 1024**2:,.0f} MiB (max_streams times stream_window)"
        )
    for at, one in enumerate(config.listen):
        if one.proxy_protocol == "trusted" and not config.forwarded.trust:
            yield f"listen[{at}].proxy_protocol has no effect: forwarded.trust is empty"
        if (
            one.proxy_protocol == "required"
            and isinstance(one.address, TcpAddress)
            and not is_loopback(one.address.host)
        ):
            yield (
                f"listen[{at}].proxy_protocol: required lets every peer of {one.address} claim any client"
                " address; trusted accepts claims of the networks in forwarded.trust only"
            )


def _sticky(config: Config) -> Iterator[str]:
    if config.variants.canary is None or config.forwarded.trust:
        return
    sticky = config.split.sticky
    if sticky.address and any(
        isinstance(one.address, TcpAddress) and one.proxy_protocol == "off" for one in config.listen
    ):
        yield (
            "split.sticky.address without forwarded.trust: behind a load balancer, all users have its"
            " address and move together; put its networks into forwarded.trust"
        )
    https = any(
        one.tls is not None or isinstance(one.address, UnixAddress) for one in config.listen
    )
    if sticky.set and sticky.needs_https and not https:
        why = "same_site: None" if sticky.same_site == "None" else f"the name {sticky.cookie}"
        yield (
            f"split.sticky: browsers keep a cookie with {why} over https only, and no listener has tls:"
            " put the proxies that speak https for it into forwarded.trust"
        )


def _following(config: Config) -> Iterator[str]:
    follow = config.split.follow
    if follow is None:
        return
    if config.split.weight > 0:
        yield (
            "split.weight is for requests that do not follow (split.follow): they get the canary at that"
            " weight, and are not compared"
        )
    if follow.sign is None:
        if any(network.prefixlen == 0 for network in follow.from_):
            yield (
                "split.follow.from has every address, and nothing is signed: any client chooses its version"
            )
        elif any(one.proxy_protocol == "required" for one in config.listen):
            yield (
                "split.follow without sign: a peer of a listener with proxy_protocol: required can claim an"
                " address of split.follow.from, and choose its version"
            )


def _rescue(config: Config) -> Iterator[str]:
    rescue = config.rescue
    given = rescue.model_fields_set
    if not rescue.enabled:
        for name in ("statuses", "methods", "after"):
            if name in given:
                yield f"rescue.{name} has no effect: rescue.enabled is false"
        return
    if not config.reversible:
        for name in ("enabled", "statuses", "methods", "after"):
            if name in given:
                yield f"rescue.{name} has no effect: release.reversible is false"
    writes = [one for one in rescue.methods if one in ("POST", "PATCH")]
    if writes:
        yield (
            f"rescue.methods has {' and '.join(writes)}: such a request may run on both versions, and do"
            " twice what it does"
        )
    if rescue.after is not None and rescue.after >= config.limits.first_byte_timeout:
        yield (
            "rescue.after has no effect: limits.first_byte_timeout is"
            f" {duration_text(config.limits.first_byte_timeout)}"
        )
    if any(one.path.prefix == "/" for one in rescue.assets):
        yield "rescue.assets has every path: each 404 makes two requests; name the paths of hashed files"


def _health(config: Config) -> Iterator[str]:
    for name, variant in (("stable", config.variants.stable), ("canary", config.variants.canary)):
        health = None if variant is None else variant.health
        if health is not None and health.timeout > health.interval:
            yield (
                f"variants.{name}.health.timeout ({duration_text(health.timeout)}) is longer than its"
                f" interval ({duration_text(health.interval)}): an endpoint that hangs is checked less often"
            )


def _without_canary(config: Config) -> Iterator[str]:
    if config.variants.canary is not None:
        return
    if config.release is not None:
        yield "release has no effect without variants.canary"
    elif config.split.weight > 0:
        yield "split.weight has no effect without variants.canary"
    if config.mirror.percent > 0:
        yield "mirror.percent has no effect without variants.canary"
    if config.rescue.assets:
        yield "rescue.assets has no effect without variants.canary"
    for at, rule in enumerate(config.split.match):
        if rule.variant == "canary":
            yield f"split.match[{at}] has no effect without variants.canary"


def _plan(config: Config) -> Iterator[str]:
    if config.release is None:
        return
    steps = config.release.steps
    yield from _users(config, steps)
    first = next((at for at, step in enumerate(steps) if step.cohort is None), 0)
    if steps[first].weight > BIG_FIRST_STEP:
        yield f"release.steps[{first}].weight is {steps[first].weight:g}%: begin with 1% to 5%"
    for at, step in enumerate(steps):
        if step.bake < SHORT_BAKE and step.weight < 100:
            yield (
                f"release.steps[{at}].bake is {duration_text(step.bake)}:"
                " slow failures (leaks, exhausted pools) need 5 to 15 minutes to show"
            )


def _users(config: Config, steps: tuple[Step, ...]) -> Iterator[str]:
    """Warn about steps that move too few users: only those moved by a step are compared in it."""
    last: dict[str | None, float] = {}
    for at, step in enumerate(steps):
        least = config.judge.min_users if step.min_users is None else step.min_users
        moved, last[step.cohort] = step.weight - last.get(step.cohort, 0.0), step.weight
        if step.weight >= 100.0:
            if step.min_users:
                yield f"release.steps[{at}].min_users has no effect at 100%: no user is left to compare with"
            continue
        if moved == 0.0:
            yield f"release.steps[{at}] moves no users: nothing is compared, and it is left by hand only"
            continue
        if least == 0:
            yield f"release.steps[{at}]: min_users is 0, so one user's requests can complete the step"
        needed = least / moved * 100.0
        if needed > MANY_USERS:
            of = "of users" if step.cohort is None else f"of {step.cohort}"
            yield (
                f"release.steps[{at}] moves {moved:.4g}% {of} and needs {least} of them (min_users):"
                f" with fewer than {needed:,.0f} users it is never left"
            )
