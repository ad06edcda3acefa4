"""Webhooks that hear what happens, and gates that are asked before a step is left.

``Notifier`` delivers records of the history; ``Gates`` asks. ``docs/notifications.md`` is for who receives.
"""

from canaryproxy.notify.gate import Answer, Gates
from canaryproxy.notify.notifier import Clock, Notifier
from canaryproxy.notify.outgoing import shown

__all__ = ["Answer", "Clock", "Gates", "Notifier", "shown"]
