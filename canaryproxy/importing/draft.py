"""A configuration in the making: settings with their origin, and notes on what has no equivalent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap
from typing import Any, Final

from canaryproxy import config
from canaryproxy.config import variables
from canaryproxy.config.errors import ConfigError, Path
from canaryproxy.config.model.service import SECTIONS
from canaryproxy.config.units import duration, duration_text
from canaryproxy.importing.fields import Field, Place

FRONT: Final = "keep the proxy that does this in front, with its address in forwarded.trust"
"""What to do about most things that are not a matter of releases."""
_PLAIN = re.compile(r"(?:[A-Za-z/][A-Za-z0-9._/-]*|[0-9]+(?:ms|[smhd%]))")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
PLACES: Final = ("hosts", "paths")
"""What a service has of its own beside its sections."""
MOST_NOTES: Final = 200
"""A source with more is far more than one split."""
_WIDTH: Final = 110
_KEYS: Final = tuple(one.alias or name for name, one in config.Config.model_fields.items())
"""The keys of a configuration, in their order."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of our configuration."""

    path: tuple[str, ...]
    value: Any
    place: Place
    origin: str
    """The name of that in the source which it is from."""
    item: bool = False
    """Whether it is an item of the list at ``path``."""


@dataclass(slots=True)
class Draft:
    """A configuration in the making."""

    source: str
    """The kind of the source, for people."""
    folder: str = ""
    """The folder of the source with a slash at its end, which comments leave out."""
    settings: list[Setting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    service: str | None = None
    """The service that the split becomes, if the source has several; its settings are below its name."""
    unused: list[str] = field(default_factory=list)
    """Notes on what this split does not use; another one may."""

    def _key(self, path: str) -> tuple[str, ...]:
        key = tuple(path.split("."))
        if self.service is None or key[0] not in (*SECTIONS, *PLACES):
            return key
        return ("services", self.service, *key)

    def set(self, path: str, value: Any, place: Place, origin: str) -> None:
        """Set a value, unless it is set already."""
        key = self._key(path)
        if all(one.path != key for one in self.settings):
            self.settings.append(Setting(key, value, place, origin))

    def add(self, path: str, value: Any, place: Place, origin: str) -> None:
        """Add an item to a list; one that is there already is not added again."""
        key = self._key(path)
        if all((one.path, one.value) != (key, value) for one in self.settings):
            self.settings.append(Setting(key, value, place, origin, item=True))

    def duration(self, path: str, seconds: float, place: Place, origin: str) -> None:
        """Set a duration; of several, the longest holds. None means no limit, which we do not have."""
        if seconds <= 0.0:
            self.no_equivalent(
                place, f"{origin} without a limit", "every timeout here has one", f"set {path}"
            )
            return
        self._longest(Setting(self._key(path), duration_text(seconds), place, origin))

    def _longest(self, setting: Setting) -> None:
        for at, one in enumerate(self.settings):
            if one.path == setting.path:
                if duration(one.value) < duration(setting.value):
                    self.settings[at] = setting
                return
        self.settings.append(setting)

    def has(self, path: str) -> bool:
        """Tell whether something is set at a path or below it."""
        key = self._key(path)
        return any(one.path[: len(key)] == key for one in self.settings)

    def no_equivalent(self, place: Place, what: str, because: str, instead: str) -> None:
        """Note what the source has and we do not."""
        self._note(f"no equivalent: {what} ({self.shown(place)}), because {because}; {instead}")

    def not_used(self, place: Place, what: str, because: str, instead: str) -> None:
        """Note what this split does not use; of several splits, what none of them uses is noted."""
        if self.service is None:
            self.no_equivalent(place, what, because, instead)
        else:
            self.unused.append(
                f"no equivalent: {what} ({self.shown(place)}), because {because}; {instead}"
            )

    def everywhere(self) -> None:
        """Let the service take every path of its hosts."""
        self.settings = [one for one in self.settings if one.path[2:] != ("paths",)]

    def differs(self, place: Place, what: str) -> None:
        """Note what is imported and behaves differently here."""
        self._note(f"differs: {what} ({self.shown(place)})")

    def shown(self, place: Place) -> str:
        """Return file and line of a place, for a comment."""
        return str(place).removeprefix(self.folder)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _share(self, setting: Setting) -> None:
        """Take over a setting; of several that contradict each other, the first holds."""
        others = [one for one in self.settings if one.path == setting.path and not one.item]
        if not others:
            self.settings.append(setting)
            return
        self.no_equivalent(
            setting.place,
            setting.origin,
            f"it is one for all services, {flow(others[0].value)} by line {others[0].place.line}",
            f"see {'.'.join(setting.path)}",
        )

    def _listen(self, setting: Setting) -> None:
        """Take over a listener; certificates of the same address are put together."""
        for at, one in enumerate(self.settings):
            if one.path == setting.path and _address(one.value) == _address(setting.value):
                self.settings[at] = replace(one, value=_with_certificates(one.value, setting.value))
                return
        self.settings.append(setting)

    def report_unread(
        self, root: Field, reasons: Mapping[str, tuple[str, str]], *, is_shared: bool = False
    ) -> None:
        """Note the keys of the source that nothing has read; ``reasons`` are by a part of the key.

        ``is_shared``: it has several splits, and another one may read them.
        """
        note = self.not_used if is_shared else self.no_equivalent
        for one in root.unread():
            named = [str(part) for part in one.place.path if isinstance(part, str)]
            because, instead = next(
                (reasons[name] for name in reversed(named) if name in reasons),
                ("canaryproxy has no such setting", FRONT),
            )
            note(one.place, one.name, because, instead)


def merged(drafts: Sequence[Draft]) -> Draft:
    """Return a draft with all services of some drafts; what is not a service's is for all of them."""
    found = Draft(drafts[0].source, drafts[0].folder)
    for draft in drafts:
        for note in draft.notes:
            found._note(note)
        for one in draft.settings:
            if one.path[0] == "limits":
                before = [it.value for it in found.settings if it.path == one.path]
                if before not in ([], [one.value]):
                    what = f"{one.origin}, {one.value}, is one for all services: the longest holds"
                    found.differs(one.place, what)
                found._longest(one)
            elif one.path == ("listen",):
                found._listen(one)
            elif all((one.path, one.value) != (it.path, it.value) for it in found.settings):
                found._share(one)
    for note in drafts[0].unused:
        if all(note in draft.unused for draft in drafts):
            found._note(note)
    found.settings.sort(key=lambda one: one.path[0] == "services" and one.path[2] not in PLACES)
    return found


def finished(draft: Draft, command: str) -> str:
    """Return the configuration as YAML that our loader accepts.

    A setting that the loader refuses becomes a note. Raises ``ConfigError``, with the place in the source, if
    endpoints are refused.
    """
    for _ in range(len(draft.settings) + 1):
        text, at = _written(draft, command)
        try:
            config.parse(text, file="import", environment={})
        except ConfigError as error:
            problem = error.problems[0]
            refused = at.get(problem.line)
            if refused is None:
                refused = next(
                    (at[line] for line in sorted(at) if line >= problem.line), draft.settings[0]
                )
            what = f"{problem.message} (it would become {'.'.join(refused.path)})"
            if problem.path[0] == "services" and (
                len(problem.path) == 2 or problem.path[2] in PLACES
            ):
                raise refused.place.error(
                    f"{refused.origin}: {what}; import one split with --only NAME"
                ) from None
            if refused.path[-3:-2] == ("variants",) and refused.path[-1] == "endpoints":
                raise refused.place.error(f"{refused.origin}: {what}") from None
            draft.settings.remove(refused)
            draft.no_equivalent(
                refused.place,
                refused.origin,
                f"canaryproxy refuses it: {problem.message}",
                f"set {'.'.join(refused.path)} by hand",
            )
            continue
        return text
    raise AssertionError("each round removes a setting")


def _written(draft: Draft, command: str) -> tuple[str, dict[int, Setting]]:
    """Return the YAML, and the setting on each line that has one."""
    lines: list[str] = [f"# Imported by canaryproxy {command} from {draft.source}."]
    for note in draft.notes[:MOST_NOTES]:
        lines += _comment(note)
    if (more := len(draft.notes) - MOST_NOTES) > 0:
        lines += _comment(f"and {more} more, which are not shown")
    at: dict[int, Setting] = {}
    for key in _KEYS:
        if draft.has(key):
            for line, setting in _block(
                (key,), [one for one in draft.settings if one.path[0] == key], draft
            ):
                lines.append(line)
                if setting is not None:
                    at[len(lines)] = setting
    return "\n".join(lines) + "\n", at


def _address(listener: Any) -> Any:
    return listener["address"] if isinstance(listener, dict) else listener


def _with_certificates(one: Any, other: Any) -> Any:
    """Return a listener with the certificates of another one, too."""
    if not isinstance(other, dict) or "tls" not in other:
        return one
    if not isinstance(one, dict) or "tls" not in one:
        return other
    certificates = list(one["tls"]["certificates"])
    certificates += [it for it in other["tls"]["certificates"] if it not in certificates]
    return {**one, "tls": {**one["tls"], "certificates": certificates}}


def _comment(text: str) -> list[str]:
    """Return a comment of several lines."""
    return wrap(
        _one_line(text), _WIDTH, initial_indent="# ", subsequent_indent="#   ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _block(
    path: Path, settings: list[Setting], draft: Draft
) -> Iterator[tuple[str, Setting | None]]:
    """Yield the lines of one key, each with its setting."""
    indent = "  " * (len(path) - 1)
    key = f"{indent}{scalar(path[-1])}:"
    here = [one for one in settings if one.path == path]
    if here and not here[0].item:
        yield f"{key} {flow(here[0].value, path)}  {_origin(here[0], draft)}", here[0]
        return
    yield key, None
    for one in here:
        yield f"{indent}  - {flow(one.value, path)}  {_origin(one, draft)}", one
    deeper = dict.fromkeys(one.path[len(path)] for one in settings if len(one.path) > len(path))
    for name in deeper:
        inner = [one for one in settings if one.path[: len(path) + 1] == (*path, name)]
        yield from _block((*path, name), inner, draft)


def _origin(setting: Setting, draft: Draft) -> str:
    """Return the comment of a line."""
    return f"# {_one_line(f'{draft.shown(setting.place)}: {setting.origin}')}"


def _one_line(text: str) -> str:
    """Return text that cannot end a comment."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def flow(value: Any, path: Path = ()) -> str:
    """Return a value on one line of YAML."""
    if isinstance(value, dict):
        inner = (f"{scalar(key)}: {flow(one, (*path, key))}" for key, one in value.items())
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(one, (*path, at)) for at, one in enumerate(value)) + "]"
    if isinstance(value, str) and "${" in value and _has_variables(path):
        value = value.replace("${", "$${")
    return scalar(value)


def _has_variables(path: Path) -> bool:
    return any(
        variables.allowed_at((*path, *more)) for more in ((), (0,), (0, "webhook"), ("webhook",))
    )


def scalar(value: str | float | bool) -> str:
    """Return a scalar of YAML; text is quoted unless it cannot be anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:.10g}"
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in quoted)
