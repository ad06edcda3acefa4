"""Listening sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from canaryproxy.config import TcpAddress, UnixAddress
from canaryproxy.proxy import tcp_options
from canaryproxy.proxy.port_holder import holder_of

BACKLOG = 4096
"""Connections that the kernel queues until they are accepted; ``net.core.somaxconn`` bounds it, too."""


class ListenError(Exception):
    """An address cannot be listened on; the text says which, why and what to do."""


def listen(
    address: TcpAddress | UnixAddress, *, mode: int = 0o666, shared: bool = False
) -> socket.socket:
    """Return a listening, non-blocking socket on the address.

    A TCP socket sets ``SO_REUSEADDR``, ``SO_REUSEPORT`` if it is ``shared`` with others of this user, and
    keep-alive for its connections. A Unix socket replaces a dead socket at its path, never a file of another
    kind or a socket that a process listens on; it gets the permissions ``mode``.
    Raises ``ListenError``.
    """
    try:
        if isinstance(address, UnixAddress):
            return _listen_unix(address, mode)
        return _listen_tcp(address, shared=shared)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {_cause(address, error)}") from None


def _cause(address: TcpAddress | UnixAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE and isinstance(address, TcpAddress):
        holder = holder_of(address.port)
        if holder is not None:
            return f"port already in use by {holder}"
        return f"port already in use (find the process: sudo ss -ltnp 'sport = :{address.port}')"
    if error.errno == errno.EACCES and isinstance(address, TcpAddress) and address.port < 1024:
        return "permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has this address"
    return error.strerror or str(error)


def _listen_tcp(address: TcpAddress, *, shared: bool) -> socket.socket:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, proto, _, name = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            # [::] is IPv6 only, as with nginx: 0.0.0.0 is listed beside it where both are wanted.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        tcp_options.prepare(sock)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_unix(address: UnixAddress, mode: int) -> socket.socket:
    path = Path(address.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o777 & ~mode)  # so that it never exists with wider permissions
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_dead(path: Path) -> None:
    """Remove a socket at ``path`` that no process listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"cannot listen on {path}: a file of that name exists")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise ListenError(f"cannot listen on {path}: another process listens on it")
