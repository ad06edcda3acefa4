"""The sockets that the proxy listens on: inherited ones, and those that it opens itself.

Sockets are inherited from systemd, or from the proxy that this one replaces in a hot restart. Each belongs to
the configured address that it is bound to. A socket that systemd names ``listen``, ``admin.socket`` or
``admin.listen`` (``FileDescriptorName=``) stands for that field of the configuration, wherever it is bound.

With several workers each has its own socket of a TCP address, by SO_REUSEPORT: the kernel spreads connections
over them. A socket that systemd opened is shared by all workers, which accept from it in turn.

``match`` decides which socket is for which address, ``_open_missing`` opens the others, and ``_assign`` gives
them to the workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from canaryproxy.config import Config, TcpAddress, UnixAddress
from canaryproxy.proxy import tcp_options
from canaryproxy.proxy.listener import ListenError, listen

_log = logging.getLogger(__name__)

_ADMIN_SOCKET_MODE = 0o600

Address = TcpAddress | UnixAddress
Field = Literal["admin.socket", "admin.listen", "listen"]
_FIELDS: Final[tuple[str, ...]] = ("admin.socket", "admin.listen", "listen")


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A listening socket, and where it comes from."""

    sock: socket.socket
    name: str = ""
    """systemd's ``FileDescriptorName=``."""
    systemd: bool = False
    """systemd keeps it open and removes its path; otherwise the proxy does."""
    fresh: bool = False
    """systemd has passed it to this process, not to one that this process replaces."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address in the configuration, and the field that names it."""

    field: Field
    address: Address


@dataclass(frozen=True, slots=True)
class Match:
    """Assigns inherited sockets to addresses."""

    found: tuple[tuple[ListeningSocket, ...], ...]
    """For each wanted address the sockets for it; none if it must be opened."""
    unclaimed: tuple[ListeningSocket, ...]
    """Sockets for which the configuration has no address."""


@dataclass(slots=True)
class Sockets:
    """All sockets of the proxy."""

    admin_unix: list[socket.socket] = field(default_factory=list)
    admin_tcp: list[socket.socket] = field(default_factory=list)
    workers: list[list[tuple[int, socket.socket]]] = field(default_factory=list)
    """For each worker its sockets, each with the index of its listener in the configuration."""
    paths: list[Path] = field(default_factory=list)
    """Unix sockets that the proxy removes when it ends."""
    all: list[ListeningSocket] = field(default_factory=list)
    """Each socket once, for a successor."""
    dropped: list[ListeningSocket] = field(default_factory=list)
    """Inherited sockets that the configuration no longer names."""

    def drop(self) -> None:
        """Close the sockets that the configuration no longer names."""
        for address in dict.fromkeys(str(address_of(one.sock)) for one in self.dropped):
            _log.info("no longer listening on %s", address)
        for one in self.dropped:
            name = one.sock.getsockname()
            one.sock.close()
            if isinstance(name, str) and name and not one.systemd:
                Path(name).unlink(missing_ok=True)
        self.dropped.clear()

    def remove(self) -> None:
        """Remove Unix sockets from the file system."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def open_sockets(config: Config, workers: int, given: Sequence[ListeningSocket] = ()) -> Sockets:
    """Listen on all addresses of a configuration, on inherited sockets where there are any.

    Raises ``ListenError`` if an address cannot be listened on, or if systemd passed a socket for which the
    configuration has no address; all sockets opened here are closed then.
    """
    for one in given:
        _prepare(one.sock)
    wanted = _wanted(config)
    matched = match(given, wanted)
    _refuse_unclaimed(matched.unclaimed)
    with contextlib.ExitStack() as undo:
        groups = [
            _open_missing(one, found, workers, undo)
            for one, found in zip(wanted, matched.found, strict=True)
        ]
        undo.pop_all()
    sockets = _assign(wanted, groups, workers)
    sockets.dropped = list(matched.unclaimed)
    return sockets


def _wanted(config: Config) -> list[Wanted]:
    """Return the configured addresses, the admin's first: a proxy that serves can then be reached."""
    wanted = []
    if config.admin.socket is not None:
        wanted.append(Wanted("admin.socket", UnixAddress(config.admin.socket)))
    if config.admin.listen is not None:
        wanted.append(Wanted("admin.listen", config.admin.listen))
    return [*wanted, *(Wanted("listen", listener.address) for listener in config.listen)]


def is_bound_to(sock: socket.socket, address: Address) -> bool:
    """Tell whether a socket receives the connections to an address."""
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
    except socket.gaierror:  # the host has no address of this family
        return False
    return any(one[4][:2] == name[:2] for one in found)


def match(
    given: Sequence[ListeningSocket],
    wanted: Sequence[Wanted],
    is_bound: Callable[[socket.socket, Address], bool] = is_bound_to,
) -> Match:
    """Decide which sockets are for which addresses. Pure, except that ``is_bound`` looks at sockets.

    A name of an admin field wins over the address. A socket named ``listen`` that is bound elsewhere stands
    for the next ``listen`` address that has no socket. One socket may serve several addresses: ``[::]`` and
    ``0.0.0.0``.
    """
    addresses = [one.address for one in wanted if one.field == "listen"]
    elsewhere = [
        one
        for one in given
        if one.name == "listen" and not any(is_bound(one.sock, address) for address in addresses)
    ]
    unbound = [
        address for address in addresses if not any(is_bound(one.sock, address) for one in given)
    ]
    stand_ins = dict(zip(unbound, elsewhere, strict=False))

    def sockets_for(field: Field, address: Address) -> tuple[ListeningSocket, ...]:
        named = [one for one in given if field != "listen" and one.name == field]
        bound = [
            one
            for one in given
            if (one.name == field or one.name not in _FIELDS) and is_bound(one.sock, address)
        ]
        stand_in = stand_ins.get(address) if field == "listen" else None
        return tuple(named or bound or ([stand_in] if stand_in is not None else []))

    found = tuple(sockets_for(one.field, one.address) for one in wanted)
    claimed = {one for group in found for one in group}
    return Match(found, tuple(one for one in given if one not in claimed))


def _refuse_unclaimed(unclaimed: Sequence[ListeningSocket]) -> None:
    for one in unclaimed:
        if one.systemd and one.fresh:
            raise ListenError(
                f"systemd passed a socket on {address_of(one.sock)} (name {one.name}) that nothing in the"
                " configuration names: list its address under listen or admin, or remove it from the"
                " socket unit"
            )


def _open_missing(
    wanted: Wanted,
    found: Sequence[ListeningSocket],
    workers: int,
    undo: contextlib.ExitStack,
) -> list[ListeningSocket]:
    """Return the sockets of an address: those found, and as many new ones as its workers need.

    ``undo`` closes the new ones and removes their paths. Raises ``ListenError``.
    """
    address = wanted.address
    mode = _ADMIN_SOCKET_MODE if wanted.field == "admin.socket" else 0o666
    one_each = workers > 1 and wanted.field == "listen" and isinstance(address, TcpAddress)

    def new() -> ListeningSocket:
        sock = undo.enter_context(listen(address, mode=mode, shared=one_each))
        if isinstance(address, UnixAddress):
            undo.callback(Path(address.path).unlink, missing_ok=True)
        return ListeningSocket(sock)

    if not found:
        return [new() for _ in range(workers if one_each else 1)]
    sockets = list(found)
    if one_each and all(map(_is_ours_to_share, found)):
        with contextlib.suppress(ListenError):  # then the workers share those that exist
            while len(sockets) < workers:
                sockets.append(new())
    return sockets


def _is_ours_to_share(one: ListeningSocket) -> bool:
    return not one.systemd and bool(one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def _assign(
    wanted: Sequence[Wanted], groups: Sequence[Sequence[ListeningSocket]], workers: int
) -> Sockets:
    """Give each address's sockets to those who accept from them."""
    sockets = Sockets(workers=[[] for _ in range(workers)])
    listener = 0
    for one, group in zip(wanted, groups, strict=True):
        sockets.all.extend(x for x in group if x not in sockets.all)
        if isinstance(one.address, UnixAddress) and not all(x.systemd for x in group):
            sockets.paths.append(Path(one.address.path))
        socks = [x.sock for x in group]
        if one.field == "admin.socket":
            sockets.admin_unix = socks
        elif one.field == "admin.listen":
            sockets.admin_tcp = socks
        else:
            _assign_to_workers(sockets.workers, listener, socks)
            listener += 1
    return sockets


def _assign_to_workers(
    workers: Sequence[list[tuple[int, socket.socket]]],
    listener: int,
    socks: Sequence[socket.socket],
) -> None:
    """Give every worker a socket, and every socket a worker that accepts from it."""
    for at in range(max(len(workers), len(socks))):
        mine, sock = workers[at % len(workers)], socks[at % len(socks)]
        if all(sock is not other for _, other in mine):  # one on [::] may be 0.0.0.0 too
            mine.append((listener, sock))


def _prepare(sock: socket.socket) -> None:
    """Set on an inherited socket the options that ``listener.listen`` sets on its own."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tcp_options.prepare(sock)


def address_of(sock: socket.socket) -> str:
    """Return the address of a socket as the configuration writes it."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return str(TcpAddress(name[0], name[1]))
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
    return f"unix:{text}".replace("\0", "@")
