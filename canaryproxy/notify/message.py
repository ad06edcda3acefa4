"""The text of notifications: JSON for programs, one paragraph for people in a chat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from canaryproxy import __version__
from canaryproxy.config import text
from canaryproxy.config.json_text import encode

NOTABLE = frozenset(
    {
        "started",
        "step",
        "ready",
        "suspect",
        "capacity",
        "accepted",
        "ejected",
        "readmitted",
        "shedding",
        "tripped",
        "breached",
        "recovered",
        "reset",
        "promoted",
        "aborting",
        "aborted",
        "paused",
        "resumed",
        "drill",
        "reload_failed",
        "upgrade_failed",
        "merged",
    }
)
"""Events sent to a webhook that names none; of ``gate``, refusals are sent too."""

_WARNINGS = frozenset(
    {
        "tripped",
        "suspect",
        "capacity",
        "ejected",
        "shedding",
        "merged",
        "reload_failed",
        "upgrade_failed",
    }
)

MAX_TEXT = 1900
"""Characters of a chat message: Discord accepts 2000, the others more."""
_MAX_LINKS = 600
"""Characters of its links."""

_SENTENCES = {
    "started": "{release} on {host} started{at}: {cause}",
    "step": "{release} on {host} began its next step{at}: {cause}",
    "ready": "{release} on {host} is ready for its next step and waits for you: {cause}",
    "paused": "{release} on {host} is paused{at}: {cause}",
    "resumed": "{release} on {host} was resumed{at}: {cause}",
    "weight": "{release} on {host}: weight changed from {cause}",
    "suspect": ":warning: {release} on {host} is suspect and stays on its step: {cause}",
    "cleared": "{release} on {host} is back to normal: {cause}",
    "capacity": ":warning: {release} on {host} stays on its step until there is capacity: {cause}",
    "accepted": "{release} on {host} no longer holds or trips on a difference: {cause}",
    "tripped": ":rotating_light: {release} rolled back on {host}{fell}: {cause}",
    "breached": ":rotating_light: {release} on {host} is worse than stable{at}, and its users are still on it"
    " (release.reversible is false): {cause}",
    "stopped": "{release} on {host} stopped: {cause}",
    "probing": "{release} on {host} is being tried again with a few users: {cause}",
    "recovered": "{release} on {host} recovered, and the circuit is closed: {cause}",
    "reset": "{release} on {host}: the circuit was reset, and users go back to the canary: {cause}",
    "restored": "{release} on {host} resumed{at}, circuit {closed}{by}{why}",
    "promoted": "{release} on {host} was promoted{by}; every user is on it{why}",
    "aborting": "{release} on {host} is being aborted{by}: its users go back to stable over a time{why}",
    "aborted": "{release} on {host} was aborted{by}; every user is on stable{why}",
    "drill": "Rollback drill of {release} on {host}{by}{why}",
    "release": "Release changed on {host}: {cause}",
    "reload": "Configuration reloaded on {host}: {cause}",
    "reload_failed": ":warning: Configuration rejected on {host}, the previous one stays in force: "
    "{cause}",
    "restart": "Proxy started again on {host}: {cause}",
    "upgrade": "Proxy restarted without downtime on {host}: {cause}",
    "upgrade_failed": ":warning: Restart failed on {host}, the running process continues: {cause}",
    "moved": "{release} on {host}: connections followed their users: {cause}",
    "ejected": ":warning: {one_of} on {host} gets no requests: {cause}",
    "readmitted": "{one_of} on {host} gets requests again: {cause}",
    "shedding": ":warning: Load shedding on {host}: {cause}",
    "shed": "Load shedding on {host} is over: {cause}",
    "merged": ":warning: Replicas of {release} had diverged and agree again on {host}{at}: {cause}",
}
_REFUSED = ":no_entry: A gate refused the next step of {release} on {host}: {cause}"
_PASSED = "The gates passed the next step of {release} on {host}: {cause}"
_DRILL = "{release} rolled back on {host}{fell} for a drill: {cause}"
_UNKNOWN = "{release} on {host}, {what}: {cause}"


_ADVICE = {
    "ready": "To take it, run canaryproxy resume.",
    "suspect": "The step goes on when the canary looks well again; canaryproxy abort ends the release.",
    "capacity": "Add endpoints, wait for less traffic, or run canaryproxy accept capacity.",
    "tripped": "Users are safe on stable. Fix the canary, then run canaryproxy reset or begin a new release.",
    "breached": "Act now: deploy a repaired canary, then run canaryproxy resume. Only if stable can serve "
    "these users: canaryproxy trip.",
    "recovered": "Find the cause all the same.",
    "promoted": "Deploy this version as stable, then configure the next release.",
    "ejected": "The others serve its share. Find out what is wrong with it; while it is the canary's, "
    "the step is held.",
    "shedding": "Add endpoints, or find out who sends so much and why responses take so long.",
    "reload_failed": "Run canaryproxy check, mend the file and reload.",
    "upgrade_failed": "No connection was lost; the log of the new process says more.",
    "merged": "The more cautious state is in force: check that it is the one you want.",
}
"""What a person does, beside the sentence of an event."""
_REFUSED_ADVICE = "The gates are asked again every half minute; canaryproxy abort ends the release."
_LATEST = 253_402_300_800.0
"""The year 10,000."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The proxy that a record comes from."""

    release: str | None
    host: str
    environment: str | None = None
    service: str | None = None
    """Its service, if the proxy has several."""

    @property
    def place(self) -> str:
        """``edge-1 (production)``, or of a service ``edge-1 (service cart, production)``."""
        of = "" if self.service is None else f"service {self.service}"
        more = ", ".join(part for part in (of, self.environment) if part)
        return f"{self.host} ({more})" if more else self.host


def links_of(
    record: Mapping[str, Any], links: Sequence[str], service: str | None = None
) -> tuple[str, ...]:
    """Return links with the number of the record in place of ``{id}``, as the dashboard takes it.

    The name of the service takes the place of ``{service}``, if there are several.
    """
    found = (link.replace("{id}", str(record.get("id"))) for link in links)
    return tuple(
        found if service is None else (link.replace("{service}", service) for link in found)
    )


def is_notable(record: Mapping[str, Any]) -> bool:
    """Return whether a record is sent to webhooks that name no events."""
    return record.get("what") in NOTABLE or _is_refusal(record)


def severity(record: Mapping[str, Any]) -> str:
    """Return ``critical`` for what is worth a page, ``warning`` for what a person must look at today, else
    ``info``.

    A trip is no page, because users are on stable by then; a breach of an irreversible release is one. What
    else pages is in the alerts of Prometheus: a stable that fails, or a proxy that cannot be reached, which
    sends no messages.
    """
    if record.get("what") == "breached":
        return "critical"
    drill = _figures(record).get("drill") is True
    grave = record.get("what") in _WARNINGS and not drill
    return "warning" if grave or _is_refusal(record) else "info"


def document(record: Mapping[str, Any], origin: Origin, links: Sequence[str] = ()) -> bytes:
    """Return the body for ``format: json``."""
    figures = _figures(record)
    return encode(
        {
            "id": record.get("id"),
            "time": record.get("time"),
            "what": record.get("what"),
            "severity": severity(record),
            "cause": record.get("cause"),
            "figures": figures,
            "endpoints": figures.get("endpoints") or [],
            "release": origin.release,
            **({} if origin.service is None else {"service": origin.service}),
            "host": origin.host,
            "environment": origin.environment,
            "links": list(links),
            "version": __version__,
        }
    )


def chat(record: Mapping[str, Any], origin: Origin, links: Sequence[str] = ()) -> bytes:
    """Return the body for ``format: slack``; ``links`` are URLs to append."""
    tail = "".join(f" {part}" for part in (advice(record), _moment(record)) if part)
    if links:
        tail += escaped(f" Next: {' · '.join(links)}", _MAX_LINKS)
    words = sentence(record, origin)
    if tail:
        words = words.removesuffix(".") + "."
    return encode({"text": escaped(words, MAX_TEXT - len(tail)) + tail})


def advice(record: Mapping[str, Any]) -> str:
    """Return what a person does about a record; empty: nothing."""
    if _is_refusal(record):
        return _REFUSED_ADVICE
    drill = _figures(record).get("drill") is True
    return "" if drill else _ADVICE.get(str(record.get("what")), "")


def _moment(record: Mapping[str, Any]) -> str:
    """Return when it happened, which for a message that was retried is not when it arrives."""
    found = text.number(record.get("time"))
    if found is None or not 0 <= found < _LATEST:
        return ""
    return f"({datetime.fromtimestamp(found, UTC):%Y-%m-%d %H:%M:%S} UTC)"


def sentence(record: Mapping[str, Any], origin: Origin) -> str:
    """Return the record in plain words, not escaped."""
    figures = _figures(record)
    cause = one_line(str(record.get("cause") or "no cause given"))
    by, why = _by(cause)
    words = _form(record, figures).format(
        release=origin.release or "the canary",
        host=origin.place,
        what=record.get("what"),
        at=_at(figures),
        fell=_fell(figures),
        one_of=_one_of(figures),
        cause=cause,
        closed="reset" if by else "closed",
        by=by,
        why=why,
    )
    return words[0].upper() + words[1:] if origin.release is None else words


def _form(record: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    match record.get("what"):
        case "gate":
            return _REFUSED if _is_refusal(record) else _PASSED
        case "tripped" if figures.get("drill") is True:
            return _DRILL
        case what:
            return _SENTENCES.get(str(what), _UNKNOWN)


def _is_refusal(record: Mapping[str, Any]) -> bool:
    return record.get("what") == "gate" and _figures(record).get("passed") is not True


def _figures(record: Mapping[str, Any]) -> Mapping[str, Any]:
    figures = record.get("figures")
    return figures if isinstance(figures, Mapping) else {}


def _at(figures: Mapping[str, Any]) -> str:
    """Return `` at 5% of users (step 2 of 5)``, as far as the figures say it."""
    weight, step, steps = (figures.get(name) for name in ("weight", "step", "steps"))
    if text.number(weight) is None:
        return ""
    return f" at {_share(figures) or f'{text.weight(weight)} of users'}" + (
        f" (step {step} of {steps})" if step and steps else ""
    )


def _fell(figures: Mapping[str, Any]) -> str:
    """Return `` at 25→0%``, or `` at 50% of staff``, if the figures have the weight before a trip."""
    weight = figures.get("weight")
    if share := _share(figures):
        return f" at {share}"
    return "" if text.number(weight) is None else f" at {text.weight(weight)[:-1]}→0%"


def _share(figures: Mapping[str, Any]) -> str:
    """Return the users on the canary in a release with cohorts: ``1% of users, 50% of staff``."""
    share = figures.get("share")
    return share if isinstance(share, str) else ""


def _one_of(figures: Mapping[str, Any]) -> str:
    """Return ``1 of 8 endpoints`` if the figures say how many there are."""
    of = text.number(figures.get("endpoints_of"))
    return "An endpoint" if of is None or of < 1 else f"1 of {text.plural(int(of), 'endpoint')}"


def _by(cause: str) -> tuple[str, str]:
    """Split ``by anna: too slow`` into `` by anna`` and ``: too slow``; any other cause has no author."""
    if not cause.startswith("by "):
        return "", f": {cause}"
    author, colon, why = cause.partition(": ")
    return f" {author}", f"{colon}{why}"


def one_line(words: str) -> str:
    """Return text with every run of spaces, line ends, control and invisible characters as one space."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


_ZERO_WIDTH = "\u200b"
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# What begins a mention (@all, <!here>) or makes the text and target of a link differ ([text](url)).
_ACTIVE = re.compile(r"([@<])(?=\S)|(\])(?=\()")


def escaped(words: str, limit: int) -> str:
    """Return text that a chat shows literally: no markup of Slack, no mentions, no disguised links.

    Mattermost and Discord expand ``@all`` and ``@everyone`` in any text, and no flag forbids it there: a
    zero-width space parts the sign from the name. The result has at most ``limit`` characters.
    """
    parts = []
    left = limit - 1
    for character in _ACTIVE.sub(rf"\g<0>{_ZERO_WIDTH}", words):
        part = _ENTITIES.get(character, character)
        left -= len(part)
        if left < 0:
            parts.append("…")
            break
        parts.append(part)
    return "".join(parts)
