"""The configuration as frozen values, a file for each section. The descriptions of the fields document them.

Units in these values: durations are seconds, sizes bytes, ratios fractions 0..1, weights percent 0..100.
Sequences are tuples.
"""

from __future__ import annotations

from canaryproxy.config.model.access_log import AccessLog
from canaryproxy.config.model.admin import Admin
from canaryproxy.config.model.circuit import Circuit
from canaryproxy.config.model.config import Config, Reload
from canaryproxy.config.model.dns import Dns
from canaryproxy.config.model.fleet import Fleet
from canaryproxy.config.model.forwarding import Forwarded, Trace
from canaryproxy.config.model.judge import (
    Business,
    Classes,
    Connections,
    Content,
    Errors,
    GuardRails,
    Judge,
    Latency,
    Metrics,
    Throughput,
)
from canaryproxy.config.model.limits import Http2Limits, Limits
from canaryproxy.config.model.listen import Listener
from canaryproxy.config.model.match import Condition, HeaderMatch, PathMatch
from canaryproxy.config.model.notify import EventName, Webhook
from canaryproxy.config.model.outcomes import JsonWhen, Outcome, OutcomeMatch, When
from canaryproxy.config.model.propagation import Follow, Propagate, Tell
from canaryproxy.config.model.release import Gate, Release, Step
from canaryproxy.config.model.resilience import Assets, Mirror, Rescue, RetryBudget
from canaryproxy.config.model.section import Mistake
from canaryproxy.config.model.service import Service
from canaryproxy.config.model.split import MatchRule, Probes, Split, Sticky
from canaryproxy.config.model.tls import Certificate, ClientTls, ServerTls
from canaryproxy.config.model.variants import Health, Variant, Variants

__all__ = [
    "AccessLog",
    "Admin",
    "Assets",
    "Business",
    "Certificate",
    "Circuit",
    "Classes",
    "ClientTls",
    "Condition",
    "Config",
    "Connections",
    "Content",
    "Dns",
    "Errors",
    "EventName",
    "Fleet",
    "Follow",
    "Forwarded",
    "Gate",
    "GuardRails",
    "HeaderMatch",
    "Health",
    "Http2Limits",
    "JsonWhen",
    "Judge",
    "Latency",
    "Limits",
    "Listener",
    "MatchRule",
    "Metrics",
    "Mirror",
    "Mistake",
    "Outcome",
    "OutcomeMatch",
    "PathMatch",
    "Probes",
    "Propagate",
    "Release",
    "Reload",
    "Rescue",
    "RetryBudget",
    "ServerTls",
    "Service",
    "Split",
    "Step",
    "Sticky",
    "Tell",
    "Throughput",
    "Trace",
    "Variant",
    "Variants",
    "Webhook",
    "When",
]
