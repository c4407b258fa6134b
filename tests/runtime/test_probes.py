"""Which process a dry run is asked of: what it may see, what it is told, and what is counted while it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from router import protocol
from router.domain.models import EngineOptions, Footprint
from router.runtime.probes import Probes
from router.runtime.spares import Spares
from router.sizing.estimate import CUDA_PROCESS
from router.sizing.placement import HOST
from tests.runtime.fakes import FakeProcess, FakeSpares

CARDS = {"gpu0": "GPU-a", "gpu1": "GPU-b", "gpu2": "GPU-c"}


@asynccontextmanager
async def probing(*processes: FakeProcess, idle: float = 60) -> AsyncIterator[tuple[Probes, FakeSpares]]:
    async with asyncio.TaskGroup() as tasks:
        spares = FakeSpares(tasks, *processes)
        probes = Probes(spares, idle)  # type: ignore[arg-type]
        probes.see(CARDS)
        yield probes, spares
        for probe in (probes._general, *probes._by_cards.values()):
            probe._retire()


def answers(process: FakeProcess, command: protocol.Command) -> None:
    """A footprint on each device that it was asked about, and on the host."""
    if isinstance(command, protocol.DryRun):
        held = {device: Footprint(weights=7) for device in (*command.options.devices, HOST)}
        process.on_event(protocol.DryRunDone(command.id, held))


async def ask(probes: Probes, *devices: str) -> list[str]:
    found, message = await probes.dry_run("m", EngineOptions(devices=devices))
    assert found is not None, message
    return sorted(found)


async def test_a_process_sees_only_the_cards_that_it_is_asked_about_and_answers_by_our_names() -> None:
    async with probing(*(FakeProcess(answers) for _ in range(3))) as (probes, spares):
        assert await ask(probes, "gpu1") == ["gpu1", "host"]
        assert await ask(probes, "gpu1") == ["gpu1", "host"]
        assert await ask(probes, "gpu2", "gpu0") == ["gpu0", "gpu2", "host"]
        assert await ask(probes, "gpu2") == ["gpu2", "host"]
    visible = [environment["CUDA_VISIBLE_DEVICES"] for environment in spares.environments]
    assert visible == ["GPU-b", "GPU-a,GPU-c", "GPU-c"]


async def test_a_process_is_told_of_its_cards_as_it_numbers_them_and_of_the_split_in_our_order() -> None:
    process = FakeProcess(answers)
    async with probing(process) as (probes, _):
        await probes.dry_run("m", EngineOptions(devices=("gpu2", "gpu1"), split=(0.7, 0.3)))
    (asked,) = (c.options for c in process.sent if isinstance(c, protocol.DryRun))
    assert (asked.devices, asked.split) == (("gpu1", "gpu0"), (0.7, 0.3))


@pytest.mark.parametrize("devices", [(), ("host",), ("gpu7",)])
async def test_what_is_about_no_card_of_ours_hides_none_and_holds_nothing(devices: tuple[str, ...]) -> None:
    async with probing(FakeProcess(answers)) as (probes, spares):
        await ask(probes, *devices)
        assert (spares.environments, probes.held) == ([{}], {})


async def test_what_the_processes_hold_is_told_from_their_start_until_they_are_gone() -> None:
    told: list[dict[str, int]] = []
    one, two = FakeProcess(answers), FakeProcess(answers)
    async with probing(one, two) as (probes, _):
        probes.report_to(lambda held: told.append(dict(held)))
        await ask(probes, "gpu1")
        await ask(probes, "gpu0", "gpu1")
        one.die("killed by SIGSEGV")
    assert [{d: size // CUDA_PROCESS for d, size in held.items()} for held in told] == [
        {},
        {"gpu1": 1},
        {"gpu0": 1, "gpu1": 2},
        {"gpu0": 1, "gpu1": 1},
        {},
    ]


async def test_a_process_that_cannot_be_started_holds_nothing() -> None:
    async with probing() as (probes, _):
        assert await probes.dry_run("m", EngineOptions(devices=("gpu1",))) == (None, "no process left")
        assert probes.held == {}


async def test_a_process_that_died_before_anybody_listened_holds_nothing_for_ever() -> None:
    dead = FakeProcess()
    dead.die("killed by SIGKILL")
    async with probing(dead, FakeProcess(answers)) as (probes, _):
        _, message = await probes.dry_run("m", EngineOptions(devices=("gpu1",)))
        assert (message, probes.held) == ("A worker process ended before it was used: killed by SIGKILL", {})
        await ask(probes, "gpu1")
        assert probes.held == {"gpu1": CUDA_PROCESS}
    assert probes.held == {}


@pytest.mark.process
async def test_the_environment_reaches_a_real_process_and_what_it_holds_ends_with_it() -> None:
    async with Spares(0, backend="echo") as spares:
        probes = Probes(spares, idle_seconds=0.2)
        probes.see(CARDS)
        found, message = await probes.dry_run("echo:?weights=9", EngineOptions(devices=("gpu1",)))
        assert found == {"host": Footprint(weights=9)}, message
        assert spares.pids
        for pid in spares.pids:
            environment = psutil.Process(pid).environ()
            assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"
            assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        async with asyncio.timeout(60):
            while spares.pids:
                await asyncio.sleep(0.01)
        assert probes.held == {}
