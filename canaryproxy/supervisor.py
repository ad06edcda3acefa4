"""Runs the proxy: sockets, data path, admin address, signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from canaryproxy.admin.app import AdminServer
from canaryproxy.admin.metrics import CounterCollector, EventCounts, Sources, registry
from canaryproxy.config import Config, UnixAddress
from canaryproxy.control import Control
from canaryproxy.controller import Controller
from canaryproxy.counters import Counters, Totals
from canaryproxy.notify import Gates, Notifier
from canaryproxy.proxy.datapath import DataPath
from canaryproxy.proxy.listener import listen
from canaryproxy.reload import Reloader
from canaryproxy.routing import RouteTable

_log = logging.getLogger(__name__)

_ADMIN_SOCKET_MODE = 0o600
_LAST_WORDS = 5.0
"""Seconds that notifications have at the end."""


def first_table(config: Config) -> RouteTable:
    """Return the route table that a configuration starts with.

    With a release nobody is on the canary until the controller says so, and its id is the salt; else
    ``split.weight`` holds. Without a canary the weight is 0.
    """
    release = config.release
    weight = config.split.weight if release is None else 0.0
    salt = config.split.salt
    if salt is None:
        salt = "" if release is None else release.id
    return RouteTable(
        weight=weight if config.variants.canary is not None else 0.0,
        salt=salt.encode(),
        new_sessions_only=config.split.admit == "new_sessions",
        epoch=1,
    )


class Supervisor:
    """One proxy in one process. ``path`` is the file of its configuration, to be read again.

    Raises ``ListenError`` from ``start`` if an address is taken, ``TokenError`` if the admin token cannot be
    one.
    """

    def __init__(self, config: Config, path: Path | None = None) -> None:
        self._config = config
        self._path = path
        self._unix_paths: list[Path] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.counters = Counters()
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Listen and serve."""
        config = self._config
        raise_file_limit()
        with contextlib.ExitStack() as opened:
            admin_unix, admin_tcp = [], []
            if config.admin.socket is not None:
                path = UnixAddress(path=config.admin.socket)
                admin_unix.append(self._listen(path, opened, _ADMIN_SOCKET_MODE))
            if config.admin.listen is not None:
                admin_tcp.append(self._listen(config.admin.listen, opened))
            # Last, so that who can reach the proxy can also look at it.
            sockets = [self._listen(address, opened) for address in config.listen]
            opened.pop_all()
        self.datapath = DataPath(
            config, asyncio.get_running_loop(), self.counters, first_table(config)
        )
        self._gates = _gates(config)
        totals = Totals([self.counters])
        self.controller = Controller(
            config, totals, self.datapath, first_table(config), ask=self._ask
        )
        self.reloader = Reloader(
            self._path,
            config,
            self.controller.check,
            self._reconfigure,
            self.controller.note,
            lambda: self.controller.now,
        )
        self.control = Control(self.controller, totals, self.datapath, self.reloader)
        events = EventCounts()
        self.control.subscribe(events)
        self._notifier = _notifier(config)
        self._notifier.start()
        self.control.subscribe(self._tell)
        self.controller.load()
        collector = CounterCollector(
            [self.counters],
            lambda: self.datapath.table,
            self.controller.status,
            Sources(
                document=self.control.document,
                events=events.counts,
                outcomes=lambda: self.controller.slots,
                notified=lambda: self._notifier,
            ),
        )
        self._admin = AdminServer(registry(collector), self.control, config.admin)
        await self._admin.start(admin_unix, admin_tcp)
        await self.datapath.serve(sockets)
        self.controller.start()
        self.control.start()
        if config.reload.watch and self._path is not None:
            self._spawn(self.reloader.watch())
        # What lives as long as the process need not be looked at by the collector again.
        gc.collect()
        gc.freeze()
        for sock in sockets:
            _log.info("listening on %s", _printable(sock))

    def _listen(
        self, address: object, opened: contextlib.ExitStack, mode: int = 0o666
    ) -> socket.socket:
        sock = opened.enter_context(listen(address, mode=mode))  # type: ignore[arg-type]
        if isinstance(address, UnixAddress):
            path = Path(address.path)
            self._unix_paths.append(path)
            opened.callback(path.unlink, missing_ok=True)
        return sock

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, question: Mapping[str, Any]) -> tuple[bool, str]:
        answer = await self._gates.ask(question)
        return answer.passed, answer.cause

    def _tell(self, kind: str, value: dict[str, Any]) -> None:
        if kind == "record":
            self._notifier.tell(value)

    def _reconfigure(self, config: Config) -> None:
        """Go on by another configuration, which ``Controller.check`` has let pass."""
        old, self._config = self._config, config
        self._gates = _gates(config)
        if (config.notify, config.release_id) != (old.notify, old.release_id):
            self._spawn(self._notifier.stop(_LAST_WORDS))
            self._notifier = _notifier(config)
            self._notifier.start()
        # Nothing runs between these two: a request sees the old configuration or the new one.
        self.controller.reconfigure(config, first_table(config))
        self.datapath.reconfigure(config, self.controller.slots)
        if config.reload.watch and not old.reload.watch and self._path is not None:
            self._spawn(self.reloader.watch())

    def reload(self) -> None:
        """Read the configuration again; what SIGHUP does."""
        self.reloader.try_reload()

    def stop(self) -> None:
        """Ask ``run`` to drain and return; what SIGTERM and SIGINT do."""
        self._stopping.set()

    async def run(self) -> bool:
        """Serve until ``stop``, then drain; returns whether every request in flight could end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, _no_news)
        await self.start()
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        await self._stopping.wait()
        loop.add_signal_handler(signal.SIGHUP, _no_news)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        return await self.shut_down()

    async def shut_down(self) -> bool:
        """Stop accepting, let requests in flight end within ``limits.drain_timeout``, close."""
        _log.info("draining: %d requests in flight", self.datapath.in_flight)
        for task in tuple(self._tasks):
            task.cancel()
        clean = await self.datapath.drain(self._config.limits.drain_timeout)
        self.control.stop()
        await self.controller.stop()
        await self._admin.stop()
        await self._notifier.stop(_LAST_WORDS)
        for path in self._unix_paths:
            path.unlink(missing_ok=True)
        return clean


def _notifier(config: Config) -> Notifier:
    return Notifier(config.notify, config.release_id)


def _gates(config: Config) -> Gates:
    return Gates(() if config.release is None else config.release.gates)


def _no_news() -> None:
    """A SIGHUP while the proxy starts or drains must not end it, as it would by default."""


def raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _printable(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else f"unix:{name}"
