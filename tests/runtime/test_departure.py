from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import pytest

from router.domain.models import Footprint
from router.domain.news import Freed, News
from router.runtime import asking, departure
from router.runtime.departure import Departure, overheads

GPU = {"gpu0": Footprint(weights=900, kv_cache=90, compute=10, overhead=50), "host": Footprint(weights=5)}


class Device:
    """Answers each reading with the next number; the last one for ever. `hidden`: it tells of no process."""

    def __init__(self, *readings: Mapping[str, int], hidden: tuple[int, ...] = ()) -> None:
        self.readings = list(readings)
        self.hidden = list(hidden)
        self.asked = 0

    def free(self, device: str) -> int | None:
        if not self.hidden:
            return None
        return self.hidden.pop(0) if len(self.hidden) > 1 else self.hidden[0]

    def used_by(self, pid: int) -> Mapping[str, int]:
        assert pid == 4242
        self.asked += 1
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


async def leave(device: Device, resident: Mapping[str, Footprint]) -> list[News]:
    told: list[News] = []
    leaving = Departure(4242, resident, overheads(resident, {}), device)
    await leaving.weigh()
    await leaving.confirm(told.append)
    return told


async def test_host_memory_is_back_when_it_is_freed_and_nobody_is_asked() -> None:
    device = Device({})
    assert await leave(device, {"host": Footprint(weights=9, overhead=3)}) == [Freed({"host": 3})]
    assert device.asked == 0


async def test_a_device_is_asked_until_it_confirms_and_what_remains_is_what_it_says() -> None:
    device = Device({"gpu0": 1060}, {"gpu0": 1060}, {"gpu0": 700}, {"gpu0": 61})
    assert await leave(device, GPU) == [Freed({"gpu0": 61, "host": 0})]
    assert device.asked == 4


@pytest.mark.parametrize("reading", [{"gpu0": 1060}, {}], ids=["it holds them still", "it tells nothing"])
async def test_what_is_not_confirmed_is_not_given_back_early(
    monkeypatch: pytest.MonkeyPatch, reading: dict[str, int]
) -> None:
    monkeypatch.setattr(departure, "CONFIRM_SECONDS", 0.01)
    assert await leave(Device(reading), GPU) == []


async def test_where_the_driver_hides_processes_free_memory_must_rise_and_the_overhead_is_what_is_known() -> (
    None
):
    device = Device({}, hidden=(5000, 5000, 5100, 5999))
    assert await leave(device, GPU) == [Freed({"gpu0": 50, "host": 0})]
    assert device.asked == 4


async def test_a_process_that_vanishes_from_the_drivers_list_has_confirmed_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(departure, "CONFIRM_SECONDS", 0.01)
    assert await leave(Device({"gpu0": 1060}, {}, hidden=(9000,)), GPU) == []


async def test_every_device_must_confirm() -> None:
    both = {"gpu0": Footprint(weights=100), "gpu1": Footprint(weights=100)}
    device = Device({"gpu0": 100, "gpu1": 100}, {"gpu0": 0, "gpu1": 100}, {"gpu0": 0, "gpu1": 0})
    assert await leave(device, both) == [Freed({"gpu0": 0, "gpu1": 0})]
    assert device.asked == 3


async def test_a_driver_that_blocks_delays_the_stop_for_a_moment_and_confirms_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.02)
    monkeypatch.setattr(departure, "CONFIRM_SECONDS", 0.01)
    released = threading.Event()

    class Blocked(Device):
        def used_by(self, pid: int) -> Mapping[str, int]:
            released.wait(10)
            return {}

    try:
        async with asyncio.timeout(2):
            assert await leave(Blocked({}), GPU) == []
    finally:
        released.set()


async def test_an_end_that_comes_first_ends_the_asking() -> None:
    told: list[News] = []
    leaving = Departure(4242, GPU, {}, Device({"gpu0": 1060}))
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(leaving.confirm(told.append))
        await asyncio.sleep(0.005)
        asking.cancel()
    assert told == []


def test_the_overhead_is_what_was_measured_or_else_what_was_estimated() -> None:
    resident = {"gpu0": Footprint(weights=5, overhead=7), "host": Footprint(weights=1)}
    estimated = {"gpu0": Footprint(overhead=9), "host": Footprint(overhead=4), "gpu1": Footprint(overhead=1)}
    assert overheads(resident, estimated) == {"gpu0": 7, "host": 4}
