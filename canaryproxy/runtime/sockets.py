"""What the proxy listens on: sockets that it was given, and those that it opens itself.

Given ones come from systemd, or from the proxy that this one replaces. They belong to the configured address
that they are bound to. systemd's may be named instead (``FileDescriptorName=``): ``listen``, ``admin.socket``
or ``admin.listen`` stand for what the configuration has there, wherever they are bound.

With several workers each has its own socket of a TCP address, by SO_REUSEPORT: the kernel spreads connections
over them. Of a socket that systemd opened there is one, and all workers accept from it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from canaryproxy.config import Config, TcpAddress, UnixAddress
from canaryproxy.proxy.listener import ListenError, listen

_log = logging.getLogger(__name__)

_ADMIN_SOCKET_MODE = 0o600
_NAMES = ("listen", "admin.socket", "admin.listen")

Address = TcpAddress | UnixAddress


@dataclass(slots=True)
class Given:
    """A listening socket that somebody else opened."""

    sock: socket.socket
    name: str = ""
    """What systemd calls it."""
    systemd: bool = False
    """systemd keeps it, and removes its path; else it is ours from now on."""
    fresh: bool = False
    """systemd has just passed it; else it comes from the proxy before."""


@dataclass(slots=True)
class Sockets:
    """What the proxy listens on."""

    admin_unix: list[socket.socket] = field(default_factory=list)
    admin_tcp: list[socket.socket] = field(default_factory=list)
    workers: list[list[tuple[int, socket.socket]]] = field(default_factory=list)
    """For each worker: its own socket of each TCP address, and those that all share; each with its listener's
    place in the configuration.
    """
    paths: list[Path] = field(default_factory=list)
    """Unix sockets to be removed at the end."""
    given: list[Given] = field(default_factory=list)
    """All of them, each once, for the process that goes on."""
    dropped: list[Given] = field(default_factory=list)
    """Taken over, and no longer in the configuration."""

    def drop(self) -> None:
        """Listen no more on what the configuration no longer names."""
        for one in self.dropped:
            _log.info("%s is not listened on any more", _where(one.sock))
            name = one.sock.getsockname()
            one.sock.close()
            if isinstance(name, str) and name and not one.systemd:
                Path(name).unlink(missing_ok=True)
        self.dropped.clear()

    def remove(self) -> None:
        """Remove Unix sockets from the file system."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def open_sockets(config: Config, workers: int, given: Sequence[Given] = ()) -> Sockets:
    """Listen on everything, by what was ``given`` and else anew.

    Raises ``ListenError``, and leaves nothing open then that it has opened: if an address cannot be listened
    on, or if nothing in the configuration names a socket of systemd's.
    """
    made = Sockets()
    left = _Given(given, config)
    with contextlib.ExitStack() as opened:

        def new(address: Address, mode: int = 0o666, *, shared: bool = False) -> socket.socket:
            sock = opened.enter_context(listen(address, mode=mode, shared=shared))
            if isinstance(address, UnixAddress):
                path = Path(address.path)
                made.paths.append(path)
                opened.callback(path.unlink, missing_ok=True)
            made.given.append(Given(sock))
            return sock

        def had(name: str, address: Address) -> list[Given]:
            found = left.take(name, address)
            made.given.extend(one for one in found if one not in made.given)
            if isinstance(address, UnixAddress) and any(not one.systemd for one in found):
                made.paths.append(Path(address.path))
            return found

        if config.admin.socket is not None:
            address = UnixAddress(config.admin.socket)
            found = had("admin.socket", address)
            made.admin_unix = [one.sock for one in found] or [new(address, _ADMIN_SOCKET_MODE)]
        if config.admin.listen is not None:
            found = had("admin.listen", config.admin.listen)
            made.admin_tcp = [one.sock for one in found] or [new(config.admin.listen)]
        # Last, so that who can reach the proxy can also look at it.
        made.workers = [[] for _ in range(workers)]
        for place, listener in enumerate(config.listen):
            here = listener.address
            several = workers > 1 and isinstance(here, TcpAddress)
            found = had("listen", here)
            socks = [one.sock for one in found]
            if not socks:
                socks = [new(here, shared=several)]
                socks += [new(here, shared=True) for _ in range(workers - 1) if several]
            elif several and len(socks) < workers and all(map(_is_ours_to_share, found)):
                with contextlib.suppress(ListenError):  # then those that there are serve for all
                    for _ in range(workers - len(socks)):
                        socks.append(new(here, shared=True))
            # Every socket needs somebody who accepts, and every worker a socket.
            for at in range(max(workers, len(socks))):
                mine, sock = made.workers[at % workers], socks[at % len(socks)]
                if all(sock is not one for _, one in mine):  # one on [::] may be 0.0.0.0 too
                    mine.append((place, sock))
        made.dropped = left.rest()
        opened.pop_all()
    return made


def _is_ours_to_share(given: Given) -> bool:
    return not given.systemd and bool(given.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


class _Given:
    """Given sockets, until each has found the address that it is for."""

    def __init__(self, given: Sequence[Given], config: Config) -> None:
        self._left = list(given)
        self._taken: list[Given] = []
        for one in given:
            _prepare(one.sock)
        self._named = {name: [one for one in given if one.name == name] for name in _NAMES}
        addresses = [listener.address for listener in config.listen]
        elsewhere = [
            one
            for one in self._named["listen"]
            if not any(_is_bound_to(one.sock, address) for address in addresses)
        ]
        unbound = [
            address
            for address in addresses
            if not any(_is_bound_to(one.sock, address) for one in given)
        ]
        self._placed = dict(zip(unbound, elsewhere, strict=False))

    def take(self, name: str, address: Address) -> list[Given]:
        """Return the sockets for what the configuration has at ``name``."""
        found = self._named[name] if name != "listen" else []
        if not found:
            found = [
                one
                for one in (*self._left, *self._taken)
                if one.name == name or one.name not in _NAMES
                if _is_bound_to(one.sock, address)
            ]
        if not found and name == "listen" and address in self._placed:
            found = [self._placed[address]]
        for one in found:
            if one in self._left:
                self._left.remove(one)
                self._taken.append(one)
        return found

    def rest(self) -> list[Given]:
        """Return those without an address. Raises ``ListenError`` if systemd has just passed one of them."""
        for one in self._left:
            if one.systemd and one.fresh:
                raise ListenError(
                    f"systemd passed a socket on {_where(one.sock)} (name {one.name}) that nothing in the"
                    " configuration names: list its address under listen or admin, or remove it from the"
                    " socket unit"
                )
        return self._left


def _prepare(sock: socket.socket) -> None:
    """Give it what ``listener.listen`` gives to its own."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_bound_to(sock: socket.socket, address: Address) -> bool:
    name = sock.getsockname()
    if isinstance(address, UnixAddress):
        return (
            sock.family == socket.AF_UNIX
            and isinstance(name, str)
            and bool(name)
            and os.path.realpath(name) == os.path.realpath(address.path)
        )
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or name[1] != address.port:
        return False
    if sock.family == socket.AF_INET6 and name[0] == "::" and address.host == "0.0.0.0":
        return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    try:
        found = socket.getaddrinfo(
            address.host or None,
            address.port,
            sock.family,
            socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except socket.gaierror:  # no address of this family
        return False
    return any(one[4][:2] == name[:2] for one in found)


def _where(sock: socket.socket) -> str:
    name = sock.getsockname()
    if isinstance(name, tuple):
        return str(TcpAddress(name[0], name[1]))
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
    return f"unix:{text}".replace("\0", "@")
