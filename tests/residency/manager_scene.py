"""What the stories of `test_manager.py` and its siblings start from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from router.domain.errors import (
    LoadFailed,
)
from router.domain.models import Limits, LocalModel
from router.residency.core import Residency
from router.residency.manager import ResidencyManager
from router.telemetry import Metrics
from tests.residency.fakes import FakeLauncher
from tests.residency.playbook import model, on

A, B = model("a", 6), model("b", 7)


BUDGET = 10


class House:
    """A manager told of A and B, with room for one of them."""

    def __init__(self, launcher: FakeLauncher, limits: Limits) -> None:
        self.launcher = launcher
        self.core = Residency(on(BUDGET), limits)
        self.metrics = Metrics()
        self.limits = limits
        clock = asyncio.get_running_loop().time
        self.manager = ResidencyManager(self.core, launcher, self.metrics, clock)

    def told(self, *models: LocalModel, budget: int = BUDGET) -> None:
        self.manager.reconcile({m.name: m for m in models}, on(budget), self.limits)

    def value(self, name: str, **labels: str) -> float | None:
        self.metrics.render()
        return self.metrics.registry.get_sample_value(name, labels)

    async def use(self, wanted: LocalModel, seconds: float = 0.0, wait: float | None = None) -> str:
        async with self.manager.lease(wanted, wait) as lease:
            assert lease.instance in self.launcher.live
            await asyncio.sleep(seconds)
            return lease.instance


@contextlib.asynccontextmanager
async def house(launcher: FakeLauncher | None = None, limits: Limits | None = None) -> AsyncIterator[House]:
    built = House(launcher or FakeLauncher(), limits or Limits())
    async with built.manager:
        built.told(A, B)
        yield built
    assert built.launcher.live == {}, "a process outlived the house"
    assert built.core.tables.instances == {} and built.core.tables.holders == {}


def now() -> float:
    return asyncio.get_running_loop().time()


async def _load_in_vain(home: House) -> None:
    with pytest.raises(LoadFailed, match="was unloaded"):
        await home.manager.load(A)


async def _outcome(
    home: House, wanted: LocalModel, wait: float | None = None, seconds: float = 0.0
) -> type[Exception] | str:
    try:
        return await home.use(wanted, seconds, wait)
    except Exception as error:
        return type(error)
