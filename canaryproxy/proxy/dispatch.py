"""Turns a request into an exchange: where it goes, whether it is a trial, and whether there is room."""

from __future__ import annotations

from canaryproxy.http1.request import Request
from canaryproxy.measure import counters
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.grpc_exchange import GrpcExchange
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
    # Outcomes are counted for all requests but those that a match rule forced to their variant; records are
    # left by randomised ones only (``Routing.mark``).
    if outcomes:
        outcomes = () if routing.forced else context.trial_rules.choose(outcomes)
    if request.fields.grpc:
        return GrpcExchange(context, sink, request, routing, outcomes, now, has_body)
    if context.access_log is None:
        return Exchange(context, sink, request, routing, outcomes, now, has_body)
    return LoggedExchange(context, sink, request, routing, outcomes, now, has_body)


def begin(context: WorkerContext, exchange: Exchange) -> None:
    """Start an exchange, or refuse the request: its variant is over its measured limit."""
    load, variant = context.load, exchange.variant
    if load.sheds and load.of[variant].refuses(context.in_flight_of(variant), exchange.routing):
        exchange.shed()
    else:
        exchange.start()
