"""A tick in parts: it is one moment, and it can be finished at once by what must not find it half done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import time
from typing import ParamSpec, TypeVar

_log = logging.getLogger(__name__)

P = ParamSpec("P")
Result = TypeVar("Result")


class TickWork:
    """The tick under way, if there is one, and the time. A part that raises ends the tick.

    ``clock`` gives seconds that never fall.
    """

    __slots__ = ("_began", "_clock", "_parts", "is_running", "offset")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.offset = time() - clock()
        """Seconds from the epoch to the beginning of ``clock``."""
        self._began = 0.0
        self._parts: Iterator[None] | None = None
        self.is_running = False
        """Whether a part is being done now: it calls what it is made of."""

    @property
    def now(self) -> float:
        """Seconds since the epoch that never fall or jump while the process runs; in a part, its tick's."""
        return self._began if self.is_running else self._clock() + self.offset

    @property
    def is_under_way(self) -> bool:
        """Whether a tick has begun and not ended."""
        return self._parts is not None

    def in_parts(self, parts: Iterator[None]) -> Iterator[None]:
        """Do a tick of these parts. It ends early if the tick is finished meanwhile."""
        self.finish()
        self._parts, self._began = parts, self._clock() + self.offset
        while self._go_on():
            yield

    def _go_on(self) -> bool:
        """Do the next part; return whether there may be another one."""
        if self._parts is None or self.is_running:
            return False
        self.is_running = True
        going_on = False
        try:
            next(self._parts)
            going_on = True
        except StopIteration:
            pass
        finally:
            self.is_running = False
            if not going_on:
                self._parts = None
        return going_on

    def finish(self) -> None:
        """Do all that is left; log if it fails, as the caller wants something else.

        Nothing happens while a part is being done: it is the part that calls.
        """
        try:
            while self._go_on():
                pass
        except Exception:  # noqa: BLE001 - whatever it is, it must not keep an operator from a reset
            _log.exception("a tick failed")

    def after(self, call: Callable[P, Result]) -> Callable[P, Result]:
        """Return a function that finishes the tick and then calls ``call``."""

        def finished(*args: P.args, **kwargs: P.kwargs) -> Result:
            self.finish()
            return call(*args, **kwargs)

        return finished
