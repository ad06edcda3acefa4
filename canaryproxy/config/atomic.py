"""Replacing a file so that readers, and a crash, see the old content or the new."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(
    path: Path, content: bytes, *, mode: int | None = None, durable: bool = True
) -> None:
    """Replace the content of ``path``, or create it.

    mode: permissions of the new file; by default those that the umask leaves.
    durable: return when the content and its name are on the disk.
    Raises ``OSError``; then the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
