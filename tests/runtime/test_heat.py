from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from router.runtime import heat
from router.sizing.thermals import Heat
from router.telemetry import Metrics

COOL, HOT = Heat(40, frozenset()), Heat(90, frozenset({"hardware_thermal"}))


class Card:
    """Gives these readings one after the other, None for no word, then no more."""

    def __init__(self, *readings: Heat | None) -> None:
        self.left = [{} if reading is None else {"gpu0": reading} for reading in readings]

    def readings(self) -> dict[str, Heat]:
        return self.left.pop(0) if self.left else {}


class Desk:
    """Where the shares are told; each reading is ten seconds after the one before."""

    def __init__(self, limit: int | None = 84) -> None:
        self.limits = {} if limit is None else {"gpu0": limit}
        self.told: list[Mapping[str, float]] = []
        self.now = 0.0

    def clock(self) -> float:
        self.now += 10.0
        return self.now

    async def watch(self, *readings: Heat | None) -> list[Mapping[str, float]]:
        async with asyncio.timeout(10):
            pacing = heat.Pacing(lambda: self.limits, self.told.append)
            await heat.watch(Card(*readings), Metrics(), pacing, 0.0, self.clock)  # type: ignore[arg-type]
        return self.told


async def test_a_hot_device_is_paced_and_restored_and_each_share_is_told_once() -> None:
    one, half, quarter = ({"gpu0": share} for share in (1.0, 0.5, 0.25))
    told = await Desk().watch(COOL, COOL, HOT, HOT, COOL, COOL, COOL)
    assert told == [one, half, quarter, half, one, {}]


async def test_a_device_that_is_silent_for_a_moment_stays_paced_and_for_good_is_not() -> None:
    told = await Desk().watch(HOT, None, None, HOT)
    assert told == [{"gpu0": 0.5}, {"gpu0": 0.25}, {}]


async def test_without_a_limit_nothing_is_paced_however_hot() -> None:
    assert await Desk(None).watch(HOT, HOT) == []


async def test_heat_is_exported_and_told_once_when_it_begins_and_when_it_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = Metrics()
    async with asyncio.timeout(10):
        card = Card(COOL, HOT, HOT, COOL, HOT)
        await heat.watch(card, metrics, heat.Pacing(dict, print), every=0.0)  # type: ignore[arg-type]
    value = metrics.registry.get_sample_value
    assert value("router_device_temperature_celsius", {"device": "gpu0"}) == 90
    assert value("router_device_slowed", {"device": "gpu0", "reason": "hardware_thermal"}) == 1
    assert value("router_device_slowed", {"device": "gpu0", "reason": "power_cap"}) == 0
    told = capsys.readouterr().out
    assert told.count("a device is slowed down") == 2
    assert told.count("at full speed again") == 1


async def test_where_no_device_tells_there_is_nothing_to_watch() -> None:
    async with asyncio.timeout(10):
        await heat.watch(Card(), Metrics(), heat.Pacing(dict, print), every=9999)  # type: ignore[arg-type]


async def test_a_driver_that_breaks_is_a_silent_one() -> None:
    class Broken:
        def __init__(self) -> None:
            self.left: list[Heat | OSError] = [COOL, OSError("the driver broke"), HOT]

        def readings(self) -> dict[str, Heat]:
            match self.left.pop(0) if self.left else None:
                case OSError() as error:
                    raise error
                case Heat() as reading:
                    return {"gpu0": reading}
            return {}

    desk = Desk()
    async with asyncio.timeout(10):
        pacing = heat.Pacing(lambda: desk.limits, desk.told.append)
        await heat.watch(Broken(), Metrics(), pacing, 0.0, desk.clock)  # type: ignore[arg-type]
    assert desk.told == [{"gpu0": 1.0}, {"gpu0": 0.5}, {}]
