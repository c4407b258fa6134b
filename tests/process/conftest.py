from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.telemetry import Metrics


@pytest.fixture
async def spares() -> AsyncIterator[Spares]:
    async with Spares(1, backend="echo") as house:
        yield house


@pytest.fixture
def launcher(spares: Spares) -> ProcessLauncher:
    """Short patience everywhere: a hang is found in half a second."""
    return ProcessLauncher(
        spares, Metrics(), "echo", hang_seconds=0.5, stall_seconds=0.5, grace=0.5, beat=0.1
    )
