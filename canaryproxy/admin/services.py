"""The services of this proxy: which one a request is for, and the list of all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from aiohttp import web

import canaryproxy
from canaryproxy.admin import schemas
from canaryproxy.admin.interfaces import ProxyControl, ReleaseControl, Service
from canaryproxy.admin.problem import Problem
from canaryproxy.control.brief_view import ATTENTION

_NAMED = 8
"""Names in a sentence."""
_LONGEST_NAME = 100


class Found(NamedTuple):
    """The service that a request is for."""

    name: str
    control: ReleaseControl


Handler = Callable[[web.Request, Found], Awaitable[web.StreamResponse]]


def find(proxy: ProxyControl, request: web.Request) -> Found:
    """Return the service that the path names, or else the only one. Raises ``Problem``."""
    services, name = proxy.services, request.match_info.get("name")
    if name is None:
        if len(services) != 1:
            raise _several(services, request.path)
        ((name, only),) = services.items()
        return Found(name, only.control)
    service = services.get(name)
    if service is None:
        raise _unknown(services, name)
    return Found(name, service.control)


def is_removed(proxy: ProxyControl, found: Found) -> bool:
    """Return whether a reload has removed a service."""
    now = proxy.services.get(found.name)
    return now is None or now.control is not found.control


def of_service(
    proxy: ProxyControl, handler: Handler
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that finds the service first; 404 if a reload removes it meanwhile."""

    async def handle(request: web.Request) -> web.StreamResponse:
        found = find(proxy, request)
        try:
            response = await handler(request, found)
        except Problem:
            if is_removed(proxy, found):
                raise _removed(proxy.services, found.name) from None
            raise
        if is_removed(proxy, found) and not response.prepared:
            raise _removed(proxy.services, found.name)
        return response

    return handle


def listing(proxy: ProxyControl) -> schemas.Services:
    """Return all services, what needs a person first."""
    rows = [row(name, service) for name, service in proxy.services.items()]
    return schemas.Services(
        services=sorted(rows, key=lambda one: ATTENTION.index(one.attention)),
        environment=proxy.environment,
        host=proxy.host,
        version=canaryproxy.__version__,
        problems=proxy.problems,
    )


def row(name: str, service: Service) -> schemas.Service:
    """Return one service, and where its release is."""
    return schemas.Service(
        name=name,
        hosts=list(service.hosts),
        paths=list(service.paths),
        **dict(service.control.brief()),
    )


def _several(services: Iterable[str], path: str) -> Problem:
    names = list(services)
    right = f"/v1/services/{names[0] if names else 'NAME'}{path.removeprefix('/v1')}"
    said = f"this proxy has several services ({_listed(names)}): name one, as in {right}"
    return Problem(404, said, services=names)


def _unknown(services: Iterable[str], name: str) -> Problem:
    names = list(services)
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    return Problem(404, f"no service {shown!r}; {_there(names)}", services=names)


def _removed(services: Iterable[str], name: str) -> Problem:
    names = list(services)
    said = f"a reload has removed the service {name}; {_there(names)}"
    return Problem(404, said, services=names)


def _there(names: Sequence[str]) -> str:
    return f"there {'are' if len(names) > 1 else 'is'} {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    """``cart, pay and search``, or the first ones and how many more."""
    if len(names) > _NAMED:
        return f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} more"
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)
