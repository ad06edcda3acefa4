"""On uvloop, as the proxy runs; a test may leave no task, and no exception in a callback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from tests.notify.harness import Hook, Raw


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    left: list[str] = []

    def note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        left.append(f"{context.get('message')}: {context.get('exception')!r}")

    asyncio.get_running_loop().set_exception_handler(note)
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not left


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    async with Hook() as hook:
        yield hook


@pytest.fixture
async def other() -> AsyncIterator[Hook]:
    async with Hook() as hook:
        yield hook


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    async with Raw() as raw:
        yield raw
