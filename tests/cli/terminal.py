"""A terminal for a command: a real pty, read by an emulator."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pyte

from tests.cli.fake import DEADLINE, environment

CTRL_C = "\x03"


class Terminal:
    """What a person sees. ``screen`` has the cells with their colours."""

    def __init__(
        self, master: int, process: asyncio.subprocess.Process, size: tuple[int, int]
    ) -> None:
        self.process = process
        self.screen = pyte.Screen(*size)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master = master
        self._changed = asyncio.Event()
        os.set_blocking(master, False)
        asyncio.get_running_loop().add_reader(master, self._read)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._changed.set()
        set_size(self._master, columns, lines)

    async def shows(self, wanted: str | Callable[[], bool]) -> None:
        """Wait until the screen has a text, or something holds."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not (wanted in self.text if isinstance(wanted, str) else wanted()):
                    self._changed.clear()
                    if isinstance(
                        wanted, str
                    ):  # to look at the screen costs more than what is written to it
                        await self._changed.wait()
                    else:
                        await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{wanted!r} is not on the screen:\n{self.text}") from None

    async def ends(self) -> int:
        """Return the exit status."""
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()

    async def interrupted(self) -> int:
        """Press Ctrl-C until it ends; return the exit status, as a shell has it.

        Once may not do: what comes between a prompt and the wait for its answer is noticed with the next key.
        One more that meets Python while it exits ends it by the signal, which is 130 to a shell, too.
        """
        async with asyncio.timeout(DEADLINE):
            self.type(CTRL_C)
            while True:
                try:
                    async with asyncio.timeout(1):
                        status = await self.process.wait()
                        return 128 - status if status < 0 else status
                except TimeoutError:
                    self.type(CTRL_C)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed: on Linux that is EIO
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.raw += data
        self._stream.feed(data)
        self._changed.set()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


def set_size(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@asynccontextmanager
async def terminal(
    *arguments: str, folder: Path, size: tuple[int, int] = (80, 24), **variables: str
) -> AsyncIterator[Terminal]:
    """Run a command in a terminal until the block ends."""
    master, slave = pty.openpty()
    set_size(slave, *size)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, *arguments,
        cwd=folder, env=environment(**variables),
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    running = Terminal(master, process, size)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        running.close()


_CHILD = """\
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
sys.argv[0] = "canaryproxy"
runpy.run_module("canaryproxy", run_name="__main__")
"""
