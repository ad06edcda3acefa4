"""Turns a request into an exchange: where it goes, and whether it is a trial."""

from __future__ import annotations

from canaryproxy.http1.request import Request
from canaryproxy.measure import counters
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.interfaces import ResponseSink
from canaryproxy.proxy.logged_exchange import LoggedExchange


def dispatch(
    context: WorkerContext, sink: ResponseSink, request: Request, now: float, has_body: bool
) -> Exchange:
    """Route a request and return its exchange, counted as routed but not started.

    ``now`` is when its head had come, in monotonic seconds.
    """
    routing, outcomes = context.router.route(request, sink.peer)
    tally = context.tallies[routing.variant]
    if routing.forced:
        tally.add(counters.FORCED)
    recorder = context.trial_rules.enroll(routing, outcomes, tally, request)
    if context.access_log is None:
        return Exchange(context, sink, request, routing, recorder, now, has_body)
    return LoggedExchange(context, sink, request, routing, recorder, now, has_body)
