"""A folder with an admin server where the command line looks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.fake import Fake, serve


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[Fake]:
    (tmp_path / "run").mkdir()
    async with serve(tmp_path / "run" / "admin.sock") as serving:
        yield serving
