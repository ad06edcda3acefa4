"""The configuration while the proxy runs: read again, compared, and applied as far as can be done live.

A file that is invalid, unreadable or refused changes nothing; the reason is kept until a reload succeeds. A
setting that cannot change while the process runs keeps its old value, and is listed as needing a restart
until file and process agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from canaryproxy import config as configuration
from canaryproxy.config import Config, ConfigError, Service
from canaryproxy.config.atomic import replace_file
from canaryproxy.config.errors import dotted
from canaryproxy.config.yaml_reader import read
from canaryproxy.release.rollout import Refused
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

NEEDS_RESTART = ("listen", "workers", "admin", "state", "access_log", "fleet")
"""Sections that belong to sockets, processes and open files; of ``listen`` only the addresses."""

_MISSING = object()
_LOOK_ANYWAY = 5000
"""Milliseconds after which a watched file is compared without an event: some file systems send none."""
_AFTER_ERROR = 5.0
_SECRETS = frozenset(
    (
        *("webhook", "secret_env", "secret_file", "token_env", "token_file"),
        *("redis", "password_env", "password_file"),
    )
)
"""Fields whose values must not show in the status, which more people may read."""


@dataclass(frozen=True, slots=True)
class Change:
    """The effect of a reload, as paths of fields."""

    changed: tuple[str, ...]
    """In force now."""
    restart_needed: tuple[str, ...]
    """In the file, and in force after a restart."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"changed": list(self.changed), "restart_needed": list(self.restart_needed)}

    def sentence(self, by: str | None) -> str:
        """Return it as the cause of a record; ``by`` names the operator, if one is known."""
        parts = [", ".join(self.changed) or "nothing changed"]
        if self.restart_needed:
            parts.append(f"a restart is needed for {', '.join(self.restart_needed)}")
        return _with("; ".join(parts), by)

    def of(self, service: str) -> Change:
        """Return the part that concerns a service: its own fields, and those of the top level."""
        mine = f"services.{service}"

        def concerns(path: str) -> bool:
            return not path.startswith("services.") or path == mine or path.startswith(f"{mine}.")

        return Change(
            tuple(filter(concerns, self.changed)), tuple(filter(concerns, self.restart_needed))
        )


def differences(old: Config, new: Config) -> tuple[str, ...]:
    """Return the paths of the fields in which two configurations differ, in the order of the file's model."""
    return tuple(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Service) and isinstance(new, Service):
        # A section that is left out is the top level's, one that is null is off: they are not equal.
        old, new = _written(old), _written(new)
    if old == new and not _has_services(old):
        return
    if isinstance(old, BaseModel) and isinstance(new, BaseModel) and type(old) is type(new):
        for name, field in type(old).model_fields.items():
            here = f"{path}.{field.alias or name}" if path else field.alias or name
            yield from _differences(getattr(old, name), getattr(new, name), here)
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            yield from _differences(
                old.get(name, _MISSING), new.get(name, _MISSING), f"{path}.{name}"
            )
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        for at, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{path}[{at}]")
    else:
        yield path


def _written(service: Service) -> dict[str, Any]:
    return {"hosts": service.hosts, "paths": service.paths, **service.own()}


def _has_services(value: Any) -> bool:
    """Return whether a value holds services, which are compared by what is written in the file."""
    if isinstance(value, Config):
        return bool(value.services)
    return isinstance(value, dict) and any(isinstance(one, Service) for one in value.values())


def live(running: Config, wanted: Config) -> Config:
    """Return ``wanted`` with everything that needs a restart as it is in ``running``.

    That is all of it, if one of them has ``services`` and the other one has not.
    """
    if bool(running.services) != bool(wanted.services):
        return running
    kept = {name: getattr(running, name) for name in NEEDS_RESTART}
    there = {listener.address: listener for listener in wanted.listen}
    kept["listen"] = tuple(there.get(one.address, one) for one in running.listen)
    return wanted.model_copy(update=kept)


class Stale(Exception):
    """The configuration or the release has changed since the caller read it."""


class Reloader:
    """The configuration file of a running proxy.

    ``check`` raises ``Refused`` for a configuration that cannot follow the running one; ``apply`` puts one in
    force; ``note`` writes into the history; ``time`` gives seconds since the epoch.
    """

    def __init__(
        self,
        path: Path | None,
        config: Config,
        check: Callable[[Config], None],
        apply: Callable[[Config], None],
        note: Callable[[str, str, dict[str, Any]], None],
        time: Callable[[], float],
        text: str | None = None,
        files: Files | None = None,
        reloaded: Callable[[Change, str | None], None] | None = None,
    ) -> None:
        """``text`` is that of ``config``, ``files`` those of its TLS, if they may be other ones by now.

        ``reloaded`` writes a reload into the history in place of ``note``; ``None``: no operator is known.
        """
        self.path = path
        self.running = config
        """The configuration in force."""
        self.text = text or ""
        """The file as it was read last, valid or not."""
        self.files = certificates.read(config) if files is None else files
        """The files of TLS that are in force."""
        self._files_seen = self.files
        self.loaded_at = time()
        self.error: str | None = None
        """Why the file is not in force, in one line."""
        self.restart_needed: tuple[str, ...] = ()
        self._unreadable = False
        self._putting = asyncio.Lock()
        self._check = check
        self._apply = apply
        self._note = note
        self._reloaded = reloaded or self._note_reload
        self._time = time
        if path is not None and text is None:
            try:
                self.text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                # It was parsed a moment ago; the next reload reports the error.
                _log.warning("%s: cannot be read again: %s", path, error)

    @property
    def etag(self) -> str:
        """A mark of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def reload(self, by: str | None = None) -> Change:
        """Read the file and put it in force; ``by`` names the operator in the history.

        Raises ``ConfigError`` if it is invalid, ``Refused`` if the release cannot continue with it,
        ``OSError`` if it cannot be read. Then nothing has changed.
        """
        self._unreadable = True
        try:
            if self.path is None:
                raise Refused("the proxy was started without a configuration file")
            try:
                text = self.path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise OSError(f"{self.path} is not UTF-8 text (byte {error.start})") from None
            self._unreadable = False
            self.text = text
            wanted, files = self._checked(text)
        except (ConfigError, Refused, OSError) as error:
            self._failed(_one_line(error), by)
            raise
        return self._take(wanted, files, by)

    async def put(
        self,
        text: str,
        *,
        dry_run: bool = False,
        if_match: Callable[[str], bool] | None = None,
        by: str | None = None,
    ) -> Change:
        """Write another text into the file and put it in force; with ``dry_run`` only return the effect.

        ``if_match`` is given the mark of the text that would be replaced. Raises as ``reload`` does, and
        ``Stale``; nothing is in force that is not in the file.
        """
        if self.path is None:
            raise Refused("the proxy was started without a configuration file")
        async with self._putting:
            if if_match is not None and not if_match(self.etag):
                raise Stale("the configuration has changed since it was read")
            self._refuse_moved_variables(text)
            wanted, files = self._checked(text)
            if dry_run:
                return self._change(wanted, files)
            if await asyncio.to_thread(_differs, self.path, self.text):
                raise Stale(f"{self.path} has been edited since it was read; reload it first")
            await asyncio.to_thread(_write, self.path, text)
            return self.reload(by)

    def _refuse_moved_variables(self, text: str) -> None:
        """Refuse a text that shows an environment variable where the present file does not.

        Whoever may change the configuration from afar must not read the environment of the proxy by that.
        """
        present = read(self.text, "").references
        for path, written in read(text, "").references.items():
            if present.get(path) != written:
                raise Refused(
                    f"{dotted(path)}: {written} is not in the present file: environment variables are put"
                    f" into {self.path} on the proxy's machine, not through the admin API"
                )

    def _checked(self, text: str) -> tuple[Config, Files]:
        """Return the configuration of ``text``, and the TLS files of it and of settings that need a
        restart."""
        wanted = configuration.parse(text, file=str(self.path))
        self._files_seen = certificates.read(wanted)
        files = certificates.load(wanted, text, file=str(self.path))
        allowed = live(self.running, wanted)
        self._check(allowed)
        return wanted, {**certificates.kept(allowed, self.files), **files}

    def _change(self, wanted: Config, files: Files) -> Change:
        allowed = live(self.running, wanted)
        changed = differences(self.running, allowed)
        renewed = certificates.changed(allowed, self.files, files)
        return Change((*changed, *renewed), differences(allowed, wanted))

    def _take(self, wanted: Config, files: Files, by: str | None) -> Change:
        change = self._change(wanted, files)
        if change.changed:
            self.running = live(self.running, wanted)
            self.files = files
            self._apply(self.running)
        news = change.changed or change.restart_needed != self.restart_needed or self.error
        self.loaded_at = self._time()
        self.error = None
        self.restart_needed = change.restart_needed
        if news:
            self._reloaded(change, by)
        return change

    def _note_reload(self, change: Change, by: str | None) -> None:
        self._note("reload", change.sentence(by), change.to_dict())

    def _failed(self, why: str, by: str | None) -> None:
        if why != self.error:
            self.error = why
            self._note("reload_failed", _with(why, by), {})
        else:
            _log.error("reload failed as before, the running configuration stays: %s", why)

    def try_reload(self) -> None:
        """Reload; an error is kept in ``error`` and in the history, and is in the log."""
        with contextlib.suppress(ConfigError, Refused, OSError):
            self.reload()

    async def watch(self) -> None:
        """Reload whenever the file's text changes, until ``reload.watch`` is off.

        Looks at the folder, so that it sees files that are replaced, and the symbolic links of a Kubernetes
        ConfigMap that are swapped.
        """
        import watchfiles  # noqa: PLC0415 - not in workers, which compare configurations too

        assert self.path is not None
        while self.running.reload.watch:
            folders = self._folders()
            try:
                async for _ in watchfiles.awatch(
                    *folders,
                    watch_filter=None,
                    debounce=400,
                    step=50,
                    recursive=False,
                    rust_timeout=_LOOK_ANYWAY,
                    yield_on_timeout=True,
                ):
                    if self._is_news():
                        self.try_reload()
                    if self._folders() != folders or not self.running.reload.watch:
                        break
            except (OSError, RuntimeError) as error:  # the folder is gone, or no watches are left
                _log.warning("%s cannot be watched: %s", self.path, error)
                if self._is_news():
                    self.try_reload()
                await asyncio.sleep(_AFTER_ERROR)

    def _folders(self) -> set[Path]:
        """Return where to look for changes: of the file, and of the files of TLS that it names."""
        assert self.path is not None
        folders = {self.path.absolute().parent, self.path.resolve().parent}
        for _, name in certificates.named(self.running):
            file = Path(name)
            folders |= {file.absolute().parent, file.resolve().parent}
        return {folder for folder in folders if folder.is_dir()} or folders

    def _is_news(self) -> bool:
        assert self.path is not None
        try:
            if self.path.read_bytes() != self.text.encode() or self._unreadable:
                return True
        except OSError:
            return not self._unreadable  # the reload reports the error
        return {**self._files_seen, **certificates.read(self.running)} != self._files_seen


def _with(cause: str, by: str | None) -> str:
    return cause if by is None else f"{cause} (by {by})"


def _one_line(error: Exception) -> str:
    if isinstance(error, ConfigError):
        problem = error.problems[0]
        first = str(problem)
        if not _SECRETS.isdisjoint(problem.path):
            first = first.partition(", found ")[0]
        more = len(error.problems) - 1
        return f"{first} (and {more} more)" if more else first
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _differs(path: Path, text: str) -> bool:
    """Return whether a file has another text; a file that is missing has none that could be lost."""
    try:
        return path.read_bytes() != text.encode()
    except FileNotFoundError:
        return False


def _write(path: Path, text: str) -> None:
    """Replace the configuration file; symbolic links to it and its permissions stay."""
    target = path.resolve()
    replace_file(target, text.encode(), mode=target.stat().st_mode & 0o777)
