"""The signals that the proxy handles."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

QUEUED: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Reload, reopen the log, upgrade. Their default action ends a process, so they stay blocked, and the kernel
keeps them, while no handler is installed: at the start and at the end.
"""
HANDLED: Final = (signal.SIGTERM, signal.SIGINT, *QUEUED, signal.SIGCHLD)


def ignore() -> None:
    """Do nothing: a signal that must neither end the process nor have an effect."""


def event_on(number: signal.Signals) -> asyncio.Event:
    """Return an event that is set when the signal arrives."""
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event
