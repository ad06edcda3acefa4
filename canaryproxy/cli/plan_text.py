"""Texts on how a configuration treats the users of a service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from canaryproxy.cli.condition_text import in_words
from canaryproxy.config.units import duration_text

if TYPE_CHECKING:
    from canaryproxy.config import Config
    from canaryproxy.config.model import Release, Step

_SHOWN = 8
"""Steps of a plan in a line."""


def split_text(config: Config, share: float | None) -> str:
    """Return how the users of a service get the canary.

    ``share`` is the percentage of all users who can get it, of a version beside the canary.
    """
    of = "" if share is None else f", for {share:g}% of users"
    if config.release is not None:
        return f"{config.release.id}{of}: {_plan(config.release, of_all=share is None)}"
    if config.split.follow is not None:
        return f"no release, follows {config.split.follow.header}"
    if config.variants.canary is None:
        return "no release, no canary"
    return f"no release{of}: {config.split.weight:g}% of {'users' if share is None else 'them'}"


def _plan(release: Release, *, of_all: bool) -> str:
    """Return the steps in their order, with that of ``hold_back``."""
    steps = [*_steps(release.plan, "users" if of_all else "them")]
    if (number := len(steps)) > _SHOWN:
        steps = [*steps[: _SHOWN - 2], "...", f"{steps[-1]} ({number} steps)"]
    by_hand = "; canaryproxy resume begins each next one" if release.promote == "manual" else ""
    return ", ".join(steps) + by_hand


def _steps(steps: Sequence[Step], everyone: str) -> Iterator[str]:
    before: str | None = None
    for step in steps:
        group = everyone if step.cohort is None else step.cohort
        of = f" of {group}" if group != before else ""
        bake = f" for {duration_text(step.bake)}" if step.bake else ""
        yield f"{step.weight:g}%{of}{bake}"
        before = group


def drawn(config: Config) -> Iterator[tuple[str, str]]:
    """Yield who is drawn: the names of groups, each with its condition in words."""
    if config.split.eligible is not None:
        yield "only users with", in_words(config.split.eligible)
    for name, condition in config.split.cohorts.items():
        yield name, in_words(condition)


def identity(config: Config) -> str:
    """Return what identifies a user."""
    sticky = config.split.sticky
    if sticky.address:
        return "by address"
    if sticky.header is not None:
        return f"by the header {sticky.header}"
    return f"by the cookie {sticky.cookie}"
