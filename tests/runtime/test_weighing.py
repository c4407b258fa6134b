from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from router import protocol
from router.domain.models import EngineOptions, Footprint, LocalModel, Placement
from router.domain.news import News
from router.runtime import asking
from router.runtime.weighing import Weighing
from router.sizing.ledger import Ledger
from router.sizing.meter import Meter
from tests.local import quiet

MiB = 2**20
ENGINE = EngineOptions(devices=("gpu0",))
ON_GPU = Placement(ENGINE, {"gpu0": Footprint(100 * MiB, overhead=600 * MiB), "host": Footprint(MiB)})
ON_HOST = Placement(ENGINE, {"host": Footprint(100 * MiB)})
SAID = {"gpu0": Footprint(80 * MiB, 10 * MiB, 10 * MiB), "host": Footprint(5 * MiB, 0, MiB, 40 * MiB)}


class FakeMeter(Meter):
    def __init__(self) -> None:
        super().__init__([])
        self.used: dict[str, int] = {}
        self.frees = [1000 * MiB]
        self.room: list[dict[str, int]] = []
        self.blocked: threading.Event | None = None

    def free(self, device: str) -> int | None:
        return self.frees.pop(0) if len(self.frees) > 1 else self.frees[0]

    def used_by(self, pid: int) -> dict[str, int]:
        if self.blocked:
            self.blocked.wait(10)
        return self.used

    def beside_strangers(self, pids: Any, booked: Any) -> dict[str, int]:
        if not self.room:
            raise RuntimeError("broken")
        return {device: size + len(list(pids)) for device, size in self.room.pop(0).items()}


class FakeWorker:
    pid = 7

    def __init__(self, said: dict[str, Footprint], mapped: int) -> None:
        self.resident = said
        self.mapped = mapped


class FakeLauncher:
    def __init__(self, said: dict[str, Footprint], mapped: int = 0) -> None:
        self._said, self._mapped = said, mapped

    async def build(self) -> str:
        return "b1"

    @contextlib.asynccontextmanager
    async def launch(
        self, instance: str, model: LocalModel, placement: Placement, tell: Callable[[News], None]
    ) -> AsyncIterator[FakeWorker]:
        yield FakeWorker(self._said, self._mapped)


@pytest.fixture
def meter() -> FakeMeter:
    return FakeMeter()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "l.json")


def model(placement: Placement) -> LocalModel:
    return LocalModel("m", "/m.gguf", (placement,), ENGINE)


async def weighed(
    meter: Meter, ledger: Ledger, placement: Placement, said: dict[str, Footprint], mapped: int = 0
) -> dict[str, Footprint]:
    launcher: Any = FakeLauncher(said, mapped)
    async with Weighing(launcher, meter, ledger).launch("m#1", model(placement), placement, quiet) as worker:
        return dict(worker.resident)


async def test_the_driver_says_what_a_process_holds_beyond_its_buffers(
    meter: FakeMeter, ledger: Ledger
) -> None:
    meter.used = {"gpu0": 650 * MiB, "host": 3 * MiB}
    held = await weighed(meter, ledger, ON_GPU, SAID)
    assert held["gpu0"] == Footprint(80 * MiB, 10 * MiB, 10 * MiB, 550 * MiB)
    assert ledger.overhead("b1", "gpu0") == 550 * MiB
    assert ledger.measured("b1", model(ON_GPU), ENGINE) == held


async def test_where_the_driver_hides_processes_the_difference_of_free_memory_tells(
    meter: FakeMeter, ledger: Ledger
) -> None:
    meter.frees = [1000 * MiB, 380 * MiB]
    assert (await weighed(meter, ledger, ON_GPU, SAID))["gpu0"].overhead == 520 * MiB


@pytest.mark.parametrize("after", [990, 900, -9000], ids=["a stranger left", "too little", "a stranger came"])
async def test_a_difference_that_cannot_be_ours_leaves_the_estimate(
    meter: FakeMeter, ledger: Ledger, after: int
) -> None:
    meter.frees = [990 * MiB, after * MiB]
    assert (await weighed(meter, ledger, ON_GPU, SAID))["gpu0"].overhead == 600 * MiB
    assert ledger.overhead("b1", "gpu0") is None


async def test_on_the_host_private_memory_and_mapped_weights_are_a_peak(
    meter: FakeMeter, ledger: Ledger
) -> None:
    said = {"host": Footprint(100 * MiB, 20 * MiB, 10 * MiB, 40 * MiB)}
    meter.used = {"host": 60 * MiB}
    assert (await weighed(meter, ledger, ON_HOST, said, 100 * MiB))["host"] == said["host"]
    meter.used = {"host": 75 * MiB}
    peak = await weighed(meter, ledger, ON_HOST, said, 100 * MiB)
    assert peak["host"].overhead == 45 * MiB


async def test_a_worker_without_mapped_weights_is_believed(meter: FakeMeter, ledger: Ledger) -> None:
    meter.used = {"host": 999 * MiB}
    assert (await weighed(meter, ledger, ON_HOST, {"host": Footprint(9)}))["host"] == Footprint(9)


async def test_an_earlier_peak_is_what_the_next_load_counts_as(meter: FakeMeter, ledger: Ledger) -> None:
    meter.used = {"gpu0": 700 * MiB}
    await weighed(meter, ledger, ON_GPU, SAID)
    meter.used = {"gpu0": 650 * MiB}
    assert (await weighed(meter, ledger, ON_GPU, SAID))["gpu0"].total == 700 * MiB


async def test_a_driver_that_blocks_costs_a_load_little(
    meter: FakeMeter, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.02)
    meter.blocked = threading.Event()
    try:
        assert (await weighed(meter, ledger, ON_GPU, SAID))["gpu0"].overhead == 600 * MiB
    finally:
        meter.blocked.set()


async def watched(house: Weighing, told: asyncio.Queue[Any], until: Callable[[], bool]) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(house.watch(lambda: (1, 2), told.put_nowait, every=0.001))
        while not until():
            await asyncio.sleep(0.001)
        watch.cancel()


async def test_the_watch_finds_new_peaks(meter: FakeMeter, ledger: Ledger) -> None:
    launcher: Any = FakeLauncher(SAID)
    meter.used = {"gpu0": 650 * MiB}
    house = Weighing(launcher, meter, ledger)

    def found() -> bool:
        return (ledger.measured("b1", model(ON_GPU), ENGINE) or {})["gpu0"].total == 777 * MiB

    async with house.launch("m#1", model(ON_GPU), ON_GPU, quiet):
        meter.used = {"gpu0": 777 * MiB}
        await watched(house, asyncio.Queue(), found)


async def test_the_watch_tells_lasting_changes_of_what_strangers_leave(
    meter: FakeMeter, ledger: Ledger
) -> None:
    launcher: Any = FakeLauncher(SAID)
    told: asyncio.Queue[Any] = asyncio.Queue()
    sizes = [900, 905, 300, 900, 400, 400, 400]  # in MiB; 300 is seen by one look only, 905 is no news
    meter.room = [{"gpu0": size * MiB} for size in sizes]
    await watched(Weighing(launcher, meter, ledger), told, lambda: not meter.room)
    assert [told.get_nowait() for _ in range(told.qsize())] == [
        {"gpu0": 900 * MiB + 2},
        {"gpu0": 400 * MiB + 2},
    ]


def test_a_loaded_frame_without_mapped_bytes_is_a_worker_that_maps_nothing() -> None:
    facts = protocol.EngineFacts(1, 1, 1, 1, False, True)
    assert protocol.Loaded(facts, {}).mapped == 0
