"""The service that a request is for, by its host and its path.

The most specific host of those that the request's host matches decides first: an exact name before
``*.shop.example.com``, that before ``*.example.com``, and services without hosts last. Of one host's services
the one with the longest prefix of the path gets the request; if none of them takes the path, the next host is
asked. What a lookup costs depends on the labels of the host and the segments of the longest prefixes, not on
how many services there are.

Paths are compared as received, by whole segments: without decoding, and without resolving ``.`` and ``..``.
That is the path that match rules see, and the one that the service gets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from canaryproxy.config import Service
from canaryproxy.config.model.service import ANY_PATH
from canaryproxy.measure.conditions import host_name

UNKNOWN_HOST: Final = -1
"""No service takes the host: 421 (RFC 9110 §15.5.20)."""
UNKNOWN_PATH: Final = -2
"""Services take the host, and none of them the path: 404."""

_NONE: Final = -1
_SLASH: Final = b"/"
_WILDCARD: Final = "*."
_CACHED: Final = 2048
"""Hosts whose services are known without a lookup."""
_LONGEST_CACHED: Final = 128
"""Bytes of such a host."""


class _Places:
    """The paths that services take on one host."""

    __slots__ = ("depth", "everything", "prefixes")

    def __init__(self) -> None:
        self.prefixes: dict[bytes, int] = {}
        self.depth = 0
        """Most segments of a prefix."""
        self.everything = _NONE
        """The service that takes every path."""

    def add(self, path: str, service: int) -> None:
        """Let a service have a prefix, unless another one has it already."""
        if path == ANY_PATH:
            if self.everything == _NONE:
                self.everything = service
            return
        self.prefixes.setdefault(path.encode(), service)
        self.depth = max(self.depth, path.count("/"))

    def find(self, path: bytes) -> int:
        """Return the service with the longest prefix of ``path``, or -1."""
        found = self.everything
        end = 0
        for _ in range(self.depth):
            end = path.find(_SLASH, end + 1)
            found = self.prefixes.get(path if end < 0 else path[:end], found)
            if end < 0:
                break
        return found


class ServiceTable:
    """The services of a configuration by host and path; a service is its index among them."""

    __slots__ = ("_any", "_below", "_deepest", "_exact", "_known")

    def __init__(self, services: Iterable[Service]) -> None:
        self._exact: dict[str, _Places] = {}
        self._below: dict[str, _Places] = {}
        """By the name behind ``*.``."""
        self._any: _Places | None = None
        self._deepest = 0
        """Most labels of such a name."""
        self._known: dict[bytes, tuple[_Places, ...]] = {}
        """What ``_of`` returns for Host fields that have been asked for."""
        for at, service in enumerate(services):
            for places in self._all(service.hosts):
                for path in service.paths or (ANY_PATH,):
                    places.add(path, at)

    def find(self, host: bytes, path: bytes) -> int:
        """Return the index of the service, ``UNKNOWN_HOST`` or ``UNKNOWN_PATH``.

        ``host`` is the Host field with its port, ``path`` that of the target without its query.
        """
        of_host = self._known.get(host)
        if of_host is None:
            of_host = self._learn(host)
        for places in of_host:
            found = places.find(path)
            if found >= 0:
                return found
        return UNKNOWN_PATH if of_host else UNKNOWN_HOST

    def of_host(self, host: bytes) -> int:
        """Return the index of the service that takes every path of a host, or -1: the path matters."""
        of_host = self._known.get(host) or self._learn(host)
        if len(of_host) == 1 and not of_host[0].depth:
            return of_host[0].everything
        return _NONE

    def _all(self, hosts: tuple[str, ...]) -> list[_Places]:
        """Return the places of hosts of the configuration, new ones where there are none."""
        if not hosts:
            if self._any is None:
                self._any = _Places()
            return [self._any]
        found: list[_Places] = []
        for host in hosts:
            if host.startswith(_WILDCARD):
                name = host.removeprefix(_WILDCARD)
                self._deepest = max(self._deepest, name.count(".") + 1)
                found.append(self._below.setdefault(name, _Places()))
            else:
                found.append(self._exact.setdefault(host, _Places()))
        return found

    def _learn(self, host: bytes) -> tuple[_Places, ...]:
        found = self._of(host_name(host))
        if found and len(host) <= _LONGEST_CACHED:
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[host] = found
        return found

    def _of(self, name: str) -> tuple[_Places, ...]:
        """Return the places that are asked for a host, in their order."""
        found: list[_Places] = []
        if (exact := self._exact.get(name)) is not None:
            found.append(exact)
        labels = name.rsplit(".", self._deepest)
        for at in range(1, len(labels)):
            if (below := self._below.get(".".join(labels[at:]))) is not None:
                found.append(below)
        if self._any is not None:
            found.append(self._any)
        for at, places in enumerate(found):
            if places.everything >= 0:
                return tuple(found[: at + 1])
        return tuple(found)
