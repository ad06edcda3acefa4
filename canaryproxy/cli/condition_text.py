"""Conditions on requests in words, as ``canaryproxy check`` prints who is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canaryproxy.config.model.match import Condition, HeaderMatch, PathMatch

_NAMED = ("header", "cookie", "query")
_LISTED = (("method", "method"), ("host", "host"), ("network", "client in"))
_MOST = 5
"""Values of a list."""


def in_words(condition: Condition) -> str:
    """Return a condition such as ``header X-Staff is yes and not (path begins with /admin)``."""
    return " and ".join(_parts(condition))


def _parts(condition: Condition) -> Iterable[str]:
    for kind in _NAMED:
        one = getattr(condition, kind)
        if one is not None:
            yield _named(kind, one)
    if condition.path is not None:
        yield f"path {_test(condition.path)}"
    for kind, words in _LISTED:
        values = getattr(condition, kind)
        if values is not None:
            yield f"{words} {_some(values)}"
    if condition.all_ is not None:
        yield " and ".join(map(_whole, condition.all_))
    if condition.any_ is not None:
        yield f"({' or '.join(map(_whole, condition.any_))})"
    if condition.not_ is not None:
        yield f"not ({in_words(condition.not_)})"


def _whole(condition: Condition) -> str:
    """Return one of several conditions, in brackets if it is several itself."""
    words = in_words(condition)
    return f"({words})" if len(list(_parts(condition))) > 1 else words


def _named(kind: str, one: HeaderMatch) -> str:
    if one.present is not None:
        return f"{'a' if one.present else 'no'} {kind} {one.name}"
    return f"{kind} {one.name} {_test(one)}"


def _test(one: HeaderMatch | PathMatch) -> str:
    if one.equals is not None:
        return f"is {one.equals}"
    if one.prefix is not None:
        return f"begins with {one.prefix}"
    return f"matches {one.regex}"


def _some(values: Iterable[object]) -> str:
    found = [str(one) for one in values]
    more = [f"{len(found) - _MOST} more"] if len(found) > _MOST else []
    return " or ".join([*found[:_MOST], *more])
