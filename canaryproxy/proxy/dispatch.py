"""Turns a request into an exchange: where it goes, whether it is a trial, and whether there is room."""

from __future__ import annotations

from typing import Final

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.request import Request
from canaryproxy.measure import counters
from canaryproxy.measure.routing import STABLE
from canaryproxy.measure.service_table import UNKNOWN_HOST
from canaryproxy.proxy.context import ServiceContext, WorkerContext
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.grpc_exchange import GrpcExchange
from canaryproxy.proxy.interfaces import ResponseSink
from canaryproxy.proxy.logged_exchange import LoggedExchange
from canaryproxy.proxy.refusals import refuse

_CACHED: Final = 1024
"""Hosts whose service is known without a lookup."""
_LONGEST_CACHED: Final = 128
"""Bytes of such a host."""


def service_of(
    context: WorkerContext, sink: ResponseSink, request: Request, head: bytes
) -> tuple[ServiceContext, Request] | None:
    """Return the service of a request of HTTP/1 where there are several, and the request as it reads it.

    ``head`` is what the request was parsed from. ``None``: no service takes it, it was refused, and the
    connection may carry others. Raises ``Refusal`` if it may not.
    """
    try:
        service = find_service(context, request)
    except Refusal as refusal:
        fields = request.fields
        if fields.length > 0 or fields.chunked or not fields.keep_alive or context.draining:
            raise
        refuse(context, sink, refusal, head, kept_for=request)
        return None
    if service.request_parser is not context.request_parser:
        request = service.request_parser.parse(head, sink.peer)
    return service, request


def find_service(context: WorkerContext, request: Request) -> ServiceContext:
    """Return the service of a request. Raises ``Refusal`` if it has none (RFC 9110 §15.5.20)."""
    at = context.table.find(request.fields.host, request.rule_key[1])
    if at == UNKNOWN_HOST:
        raise Refusal(421, "no service here has this host")
    if at < 0:
        raise Refusal(404, "no service of this host has this path")
    service = context.services[at]
    if not service.is_awake:
        service.wake()
    if service.request_parser is context.request_parser:
        _remember(context, request.fields.host, service)
    return service


def _remember(context: WorkerContext, host: bytes, service: ServiceContext) -> None:
    """Note that all requests of a host are for a service, if they are."""
    by_host = context.by_host
    if len(host) <= _LONGEST_CACHED and context.table.of_host(host) >= 0:
        if len(by_host) >= _CACHED:
            by_host.clear()
        by_host[host] = service


def dispatch(
    service: ServiceContext, sink: ResponseSink, request: Request, now: float, has_body: bool
) -> Exchange:
    """Route a request and return its exchange, counted as routed but not started.

    Of a service with versions beside its canary, the exchange may belong to the service of one of them.
    ``now`` is when its head had come, in monotonic seconds.
    """
    routing, outcomes = service.router.route(request, sink.peer)
    if service.others is not None:
        service, routing = service.others.choose(service, request, sink.peer, routing)
    if routing.forced:
        service.tallies[routing.variant].add(counters.FORCED)
    # Outcomes are counted for all requests but those that a match rule forced to their variant; records are
    # left by randomised ones only (``Routing.mark``).
    if outcomes:
        outcomes = () if routing.forced else service.trial_rules.choose(outcomes)
    if request.fields.grpc:
        return GrpcExchange(service, sink, request, routing, outcomes, now, has_body)
    if service.worker.access_log is None:
        return Exchange(service, sink, request, routing, outcomes, now, has_body)
    return LoggedExchange(service, sink, request, routing, outcomes, now, has_body)


def begin(exchange: Exchange) -> None:
    """Start an exchange, or refuse the request: its variant is over its measured limit."""
    service, variant = exchange.service, exchange.variant
    load = service.load
    if not load.sheds:
        exchange.start()
        return
    refused = load.of[variant].refuses(service.in_flight_of(variant), exchange.routing)
    if load.of[STABLE].sheds:
        # Whom stable refuses is no trial of stable's: then what the canary does meanwhile is none, either.
        exchange.routing = exchange.routing.without_record()
    if refused:
        exchange.shed()
    else:
        exchange.start()
