"""Routes as the configuration names them, in the place of the busiest ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from canaryproxy.config import PathMatch
from canaryproxy.judging.metrics import OTHER
from canaryproxy.measure.conditions import text_test
from canaryproxy.measure.records import template_of

_MOST = 4096
"""Templates that are remembered."""


class NamedRoutes:
    """Groups route templates: a template belongs to the first route whose condition its path meets."""

    __slots__ = ("_groups", "_routes")

    def __init__(self, routes: Sequence[tuple[str, PathMatch]]) -> None:
        self._routes = [(name, text_test(path)) for name, path in routes]
        self._groups: dict[int, int] = {}

    def learn(self, names: Mapping[int, str]) -> Mapping[int, str]:
        """Take the names of templates, such as ``GET /users/*``; return those of their routes."""
        if len(self._groups) + len(names) > _MOST:  # they are announced again
            self._groups = {}
        found: dict[int, str] = {}
        for template, name in names.items():
            path = name.partition(" ")[2]
            for route, test in self._routes:
                if test(path):
                    group = template_of(route.encode())
                    self._groups[template], found[group] = group, route
                    break
        return found

    def of(self, template: int) -> int:
        """Return the route of a template; ``OTHER`` if it belongs to none."""
        return self._groups.get(template, OTHER)
