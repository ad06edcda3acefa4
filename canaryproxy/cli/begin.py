"""``canaryproxy start --id``: a new release id, put into the configuration file through the admin API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from canaryproxy.cli.common import EXIT_CONFIG, fail
from canaryproxy.client import text as words
from canaryproxy.client.api import Client
from canaryproxy.config import units
from canaryproxy.config.errors import Path, dotted

if TYPE_CHECKING:
    from canaryproxy.config.yaml_reader import ParsedYaml

Document = Mapping[str, Any]


class NewRelease:
    """A release that is to begin; ``by`` and ``reason`` are for the history.

    ``service`` is its name where the configuration has several.
    """

    def __init__(
        self, release_id: str, by: str, reason: str | None, service: str | None = None
    ) -> None:
        if not re.fullmatch(units.RELEASE_ID_PATTERN, release_id):
            fail(f"--id: expected {units.RELEASE_ID_WORDS}, found {release_id!r}", EXIT_CONFIG)
        self._id = release_id
        self._by = by
        self._reason = reason
        self._service = service
        self._at: Path = ("release", "id")
        self._text = ""
        self._etag: str | None = None

    async def prepare(self, client: Client) -> Document | None:
        """Return the preview; ``None`` if it is the present release. Exits if it cannot begin."""
        now = (await client.release()).body
        present = now.get("release")
        if present is None:
            fail(
                "nothing to start: no release is configured; add release.id and release.steps, then reload"
            )
        if present == self._id:
            return None
        if now.get("fleet") is not None:
            fail(
                "start --id changes the file of one proxy, and this one is a replica of a fleet: roll out a"
                " configuration with the new release.id to all replicas"
            )
        config = await client.config()
        self._text, self._etag = self._edited(config.body), config.etag
        change = await client.put_config(
            self._text, self._etag, dry_run=True, by=self._by, reason=self._reason
        )
        return {
            "act": "start",
            "title": f"Start {self._id}",
            "asks": True,
            "says": _says(now, config.body, change.body, dotted(self._at)),
        }

    async def carry_out(self, client: Client) -> dict[str, Any]:
        """Put the id in force; return what changed and the release after it, or exit if it does not show."""
        change = await client.put_config(
            self._text, self._etag, dry_run=False, by=self._by, reason=self._reason
        )
        release = (await client.release()).body
        if release.get("release") != self._id:
            fail(
                "the configuration was written, but the release does not show it: now"
                f" {words.outcome(release)}"
            )
        return {**change.body, "release": release}

    def _edited(self, config: Document) -> str:
        from canaryproxy.config.yaml_reader import read, with_value  # noqa: PLC0415 - it loads PyYAML

        text = config.get("text")
        if not isinstance(text, str):
            fail(
                "an admin token for the whole proxy is needed to change the configuration. Pass it with"
                " --token-file FILE or CANARYPROXY_TOKEN"
            )
        file = words.clean(config.get("file"))
        source = read(text, "")
        at = self._at = self._place(source, file)
        if (written := source.references.get(at)) is not None:
            fail(
                f"{file} takes {dotted(at)} from the environment ({words.clean(written)}): set the variable"
                " and restart the proxy, or write an id into the file"
            )
        edited = with_value(text, at, self._id)
        if edited is None:
            fail(
                f"cannot find the place of {dotted(at)} in {file}: edit it and run canaryproxy reload"
            )
        return edited

    def _place(self, source: ParsedYaml, file: str) -> Path:
        """Return the path of the id in the file; exits if that is not the id of this service alone."""
        services = source.value.get("services") if isinstance(source.value, dict) else None
        if not isinstance(services, dict):
            return ("release", "id")
        service = self._service or (next(iter(services)) if len(services) == 1 else None)
        if service is None:
            fail(f"{file} has several services: say whose release begins with --service")
        at = ("services", service, "release", "id")
        if at not in source.values:
            fail(
                f"{file} has no {dotted(at)}: the service takes over the release of the top level, and a new"
                f" id there is one for each such service. Write a release of its own for {service}, and"
                " run canaryproxy reload"
            )
        return at


def _says(now: Document, config: Document, change: Document, at: str) -> list[str]:
    """Return what will happen, a sentence an entry."""
    steps = now.get("steps")
    listed = steps if isinstance(steps, list) else []
    first = listed[0] if listed and isinstance(listed[0], dict) else {}
    of = "" if first.get("cohort") else " of users"
    says = [
        f"it takes the place of {words.name(now)}, which is {words.progress(now)}",
        f"all users go to stable; then step 1 of {len(listed)} begins with {words.step_share(first)}{of},"
        " not the same as before",
        f"the id is written into {words.clean(config.get('file'))}",
    ]
    changed = change.get("changed")
    others = [one for one in changed if one != at] if isinstance(changed, list) else []
    if others:
        says.append(f"the file also changes {', '.join(words.clean(one, 100) for one in others)}")
    return says
