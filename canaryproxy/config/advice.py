"""Warnings about a valid configuration: risky plans, and settings without effect."""

from __future__ import annotations

from collections.abc import Iterator

from canaryproxy.config.addresses import TcpAddress, is_loopback
from canaryproxy.config.model import Config
from canaryproxy.config.units import duration_text

SHORT_BAKE = 300.0
"""Seconds; in less time slow failures (leaks, exhausted pools) do not show."""
BIG_FIRST_STEP = 5.0
"""Percent of users; a plan should not begin with more."""


def warnings(config: Config) -> tuple[str, ...]:
    """Return the warnings, one line each."""
    return (*_without_canary(config), *_plan(config), *_connections(config))


def _connections(config: Config) -> Iterator[str]:
    for name, variant in (("stable", config.variants.stable), ("canary", config.variants.canary)):
        if variant is not None and variant.tls is not None and not variant.tls.verify:
            yield (f"variants.{name}.tls.verify is false: connections to {name} can be intercepted")
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


def _without_canary(config: Config) -> Iterator[str]:
    if config.variants.canary is not None:
        return
    if config.release is not None:
        yield "release has no effect without variants.canary"
    elif config.split.weight > 0:
        yield "split.weight has no effect without variants.canary"
    if config.mirror.percent > 0:
        yield "mirror.percent has no effect without variants.canary"
    for at, rule in enumerate(config.split.match):
        if rule.variant == "canary":
            yield f"split.match[{at}] has no effect without variants.canary"


def _plan(config: Config) -> Iterator[str]:
    if config.release is None:
        return
    steps = config.release.steps
    if steps[0].weight > BIG_FIRST_STEP:
        yield f"release.steps[0].weight is {steps[0].weight:g}%: begin with 1% to 5%"
    for at, step in enumerate(steps):
        if step.bake < SHORT_BAKE and step.weight < 100:
            yield (
                f"release.steps[{at}].bake is {duration_text(step.bake)}:"
                " slow failures (leaks, exhausted pools) need 5 to 15 minutes to show"
            )
