"""The process that listens on a port, as far as /proc tells."""

from __future__ import annotations

from pathlib import Path

_LISTENING = "0A"


def holder_of(port: int, proc: Path = Path("/proc")) -> str | None:
    """Return ``nginx (pid 812)``; ``None`` if the process cannot be found, such as another user's."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    for descriptor in proc.glob("[0-9]*/fd/*") if wanted else ():
        try:
            if str(descriptor.readlink()) in wanted:
                process = descriptor.parent.parent
                name = (process / "comm").read_text(errors="replace").strip()
                return f"{name} (pid {process.name})"
        except OSError:  # the process or the file is gone, or not ours to see
            continue
    return None


def _inodes(port: int, proc: Path) -> set[str]:
    """Return the inodes of the sockets that listen on a port (proc(5), ``/proc/net/tcp``)."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found
