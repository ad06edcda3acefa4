"""Webhooks that are notified of events, and promotion gates that are asked before a step begins.

``Notifier`` delivers records of the history; ``Gates`` asks. ``docs/notifications.md`` is for receivers.
"""

from canaryproxy.notify.gate import GateResult, Gates
from canaryproxy.notify.notifier import Clock, Notifier
from canaryproxy.notify.outgoing import shown

__all__ = ["Clock", "GateResult", "Gates", "Notifier", "shown"]
