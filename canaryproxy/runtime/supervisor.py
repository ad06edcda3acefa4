"""Starts the proxy: the checks before it runs, its sockets and shared memory, then one process or several.

One worker shares a process and an event loop with the control plane (``single``). Several workers have a
process each, and so does the control plane (``multi``). On SIGUSR2 both start the installed program as a new
process and hand everything over to it (``hot_restart``).
"""

from __future__ import annotations

import logging
import resource
import signal
from importlib.util import find_spec
from pathlib import Path

from canaryproxy import config as configuration
from canaryproxy.admin.tokens import check_tokens
from canaryproxy.config import Config
from canaryproxy.config.secrets import SecretError
from canaryproxy.control.state_file import StateError
from canaryproxy.control.state_lock import StateLocks
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.runtime import allocator, systemd
from canaryproxy.runtime.context import RunContext
from canaryproxy.runtime.hot_restart import Predecessor
from canaryproxy.runtime.multi import run_multi
from canaryproxy.runtime.shared_block import SharedBlock, layout
from canaryproxy.runtime.signals import QUEUED
from canaryproxy.runtime.single import run_single
from canaryproxy.runtime.sockets import ListeningSocket, open_sockets
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

_LOCK_WITHIN = 5.0
"""Seconds for another proxy to release the state file before this one refuses to start."""


class StartError(Exception):
    """The proxy cannot start; the text says why."""


class Supervisor:
    """One proxy.

    ``path`` is its configuration file, to be read again on a reload; ``files`` are the files that the
    configuration names. ``predecessor`` is the proxy that this one replaces. ``pid_file`` holds the process
    id while the proxy serves.
    """

    def __init__(
        self,
        config: Config,
        path: Path | None = None,
        files: Files | None = None,
        *,
        predecessor: Predecessor | None = None,
        pid_file: Path | None = None,
    ) -> None:
        self._config = config
        self._files = certificates.read(config) if files is None else files
        self._path = path
        self._predecessor = predecessor
        self._pid_file = pid_file
        self.workers = config.worker_count

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT and drain, or until a successor has taken over.

        Signals stay blocked afterwards: the process is about to exit.
        Raises ``ListenError`` if an address cannot be listened on, ``SecretError`` for an unusable admin
        token, ``HandoverError`` if the predecessor does not hand over, ``StartError`` for other obstacles.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, QUEUED)
        raise_file_limit()
        allocator.keep_freed()
        self._check()
        context = self._prepare()
        serve = run_single if self.workers == 1 else run_multi
        handed_over = False
        try:
            handed_over = serve(context)
        finally:
            if not handed_over:
                context.clean_up()
        _log.info("stopped")

    def _check(self) -> None:
        """Refuse what would fail later, when clients notice."""
        config = self._config
        if config.access_log is not None:
            _check_log(config.access_log)
        check_tokens(config.admin)
        if config.fleet is not None:
            _check_fleet(config.fleet, "fleet")
        for _, split in config.in_use("split"):
            if split.follow is not None and split.follow.tell is not None:
                _check_fleet(split.follow.tell, "split.follow.tell")
        _check_dns(config)
        if self._predecessor is None:
            # Before it listens: with SO_REUSEPORT a second proxy would be given a share of the connections.
            _check_alone(config)

    def _prepare(self) -> RunContext:
        sockets = open_sockets(self._config, self.workers, self._inherited())
        mark = layout()
        try:
            if self._predecessor is not None:
                self._predecessor.prepared()
                memory = self._predecessor.memory(self.workers, mark)
            else:
                memory = SharedBlock(self.workers)
        except OSError as error:
            raise StartError(f"no shared memory: {error.strerror}") from None
        return RunContext(
            self._config,
            self._path,
            self._files,
            sockets,
            memory,
            mark,
            self._predecessor,
            self._pid_file,
        )

    def _inherited(self) -> list[ListeningSocket]:
        if self._predecessor is not None:
            return self._predecessor.sockets
        try:
            passed = systemd.passed_sockets()
        except systemd.SocketsError as error:
            raise StartError(str(error)) from None
        return [ListeningSocket(one.sock, one.name, systemd=True, fresh=True) for one in passed]


def _check_alone(config: Config) -> None:
    """Raise ``StartError`` if another proxy holds a state file of this one."""
    locks = StateLocks(config)
    try:
        locks.acquire(_LOCK_WITHIN)
    except StateError as error:
        raise StartError(str(error)) from None
    finally:
        locks.release()


def _check_log(settings: configuration.AccessLog) -> None:
    try:
        AccessLog(settings).check()
    except OSError as error:
        raise StartError(f"cannot open the access log {settings.path}: {error.strerror}") from None


def _check_dns(config: Config) -> None:
    asks = config.dns.servers or any(one.service for one in config.endpoints)
    if asks and find_spec("dns") is None:
        raise StartError(
            "dns.servers and dns+srv:// need dnspython: pip install 'canaryproxy[dns]'"
        )


def _check_fleet(settings: configuration.Fleet, name: str) -> None:
    try:
        # redis is an optional dependency, for fleets only.
        from canaryproxy.fleet import redis_store  # noqa: PLC0415
    except ImportError:
        raise StartError(f"{name} needs redis: pip install 'canaryproxy[redis]'") from None
    try:
        redis_store.password(settings)
    except SecretError as error:
        raise StartError(f"{name}: {error}") from None


def raise_file_limit() -> None:
    """Raise the limit of open files to the most that the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
