"""Warnings about the files of secrets that a configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel

from canaryproxy.config.secrets import SecretError, SecretSource

_FILES: Final = ("token_file", "secret_file", "password_file")
"""Fields that name the file of a secret."""


def unusable(config: BaseModel, path: str = "") -> Iterator[str]:
    """Yield a warning for each file of a secret that a configuration names and that cannot be used now."""
    for name, value in config:
        here = f"{path}.{name}" if path else name
        for end, item in _items(value):
            if isinstance(item, BaseModel):
                yield from unusable(item, here + end)
        if name in _FILES and isinstance(value, str):
            try:
                SecretSource(file=value).read()
            except SecretError as error:
                yield f"{here}: {error}"


def _items(value: object) -> Iterator[tuple[str, object]]:
    """Yield the values in a field, with the ends of their paths."""
    if isinstance(value, tuple):
        yield from ((f"[{at}]", item) for at, item in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f".{name}", item) for name, item in value.items())
    else:
        yield "", value
