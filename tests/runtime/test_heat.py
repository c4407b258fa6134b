from __future__ import annotations

import asyncio

import pytest

from router.runtime import heat
from router.sizing.thermals import Heat
from router.telemetry import Metrics

COOL, HOT = Heat(40, frozenset()), Heat(90, frozenset({"hardware_thermal"}))


class Card:
    """Gives these readings one after the other, then none."""

    def __init__(self, *readings: Heat) -> None:
        self.left = [{"gpu0": reading} for reading in readings]

    def readings(self) -> dict[str, Heat]:
        return self.left.pop(0) if self.left else {}


async def test_heat_is_exported_and_told_once_when_it_begins_and_when_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = Metrics()
    async with asyncio.timeout(10):
        await heat.watch(Card(COOL, HOT, HOT, COOL, HOT), metrics, every=0.0)  # type: ignore[arg-type]
    value = metrics.registry.get_sample_value
    assert value("router_device_temperature_celsius", {"device": "gpu0"}) == 90
    assert value("router_device_slowed", {"device": "gpu0", "reason": "hardware_thermal"}) == 1
    assert value("router_device_slowed", {"device": "gpu0", "reason": "power_cap"}) == 0
    told = capsys.readouterr().out
    assert told.count("a device is slowed down") == 2
    assert told.count("at full speed again") == 1


async def test_where_no_device_tells_there_is_nothing_to_watch() -> None:
    async with asyncio.timeout(10):
        await heat.watch(Card(), Metrics(), every=9999)  # type: ignore[arg-type]
