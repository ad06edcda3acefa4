"""Turns a request into an exchange: where it goes, whether it is a trial, and whether there is room."""

from __future__ import annotations

from canaryproxy.http1.request import Request
from canaryproxy.measure import counters
from canaryproxy.proxy.context import ServiceContext
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.grpc_exchange import GrpcExchange
from canaryproxy.proxy.interfaces import ResponseSink
from canaryproxy.proxy.logged_exchange import LoggedExchange


def dispatch(
    service: ServiceContext, sink: ResponseSink, request: Request, now: float, has_body: bool
) -> Exchange:
    """Route a request and return its exchange, counted as routed but not started.

    ``now`` is when its head had come, in monotonic seconds.
    """
    routing, outcomes = service.router.route(request, sink.peer)
    tally = service.tallies[routing.variant]
    if routing.forced:
        tally.add(counters.FORCED)
    # Outcomes are counted for all requests but those that a match rule forced to their variant; records are
    # left by randomised ones only (``Routing.mark``).
    if outcomes:
        outcomes = () if routing.forced else service.trial_rules.choose(outcomes)
    if request.fields.grpc:
        return GrpcExchange(service, sink, request, routing, outcomes, now, has_body)
    if service.worker.access_log is None:
        return Exchange(service, sink, request, routing, outcomes, now, has_body)
    return LoggedExchange(service, sink, request, routing, outcomes, now, has_body)


def begin(service: ServiceContext, exchange: Exchange) -> None:
    """Start an exchange, or refuse the request: its variant is over its measured limit."""
    load, variant = service.load, exchange.variant
    if load.sheds and load.of[variant].refuses(service.in_flight_of(variant), exchange.routing):
        exchange.shed()
    else:
        exchange.start()
