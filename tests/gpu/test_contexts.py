"""Which cards a process touches: only those that it was told of. Needs two GPUs for what it says of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.domain.models import EngineOptions, LocalModel, Placement
from router.runtime.launcher import ProcessLauncher
from router.runtime.probes import Probes
from router.runtime.spares import Spares
from router.sizing.devices import Device, detect
from router.sizing.estimate import CUDA_PROCESS
from router.sizing.meter import Meter
from router.sizing.parts import identity
from router.telemetry import Metrics
from tests.local import quiet
from tests.models import shapes

pytestmark = pytest.mark.gpu

GPUS: tuple[Device, ...] = tuple(device for device in detect() if device.kind == "cuda")
CONTEXT = 64 * 2**20
"""Far less than a CUDA context takes, and more than what a process takes of a card that it only lists."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.grouped(tmp_path_factory.mktemp("gpu") / "grouped.gguf")


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    async with Spares(1) as spares:
        launcher = ProcessLauncher(spares, Metrics())
        launcher.dry_runs = Probes(spares, idle_seconds=60)  # stays while it is looked at
        launcher.dry_runs.see({gpu.name: gpu.uuid for gpu in GPUS})
        yield launcher


def free() -> dict[str, int]:
    meter = Meter(GPUS)
    return {gpu.name: meter.free(gpu.name) or 0 for gpu in GPUS}


def touched(before: dict[str, int]) -> set[str]:
    return {gpu for gpu, size in free().items() if before[gpu] - size > CONTEXT}


@pytest.mark.parametrize("asked", [gpu.name for gpu in GPUS])
async def test_a_dry_run_touches_only_the_card_that_it_is_asked_about_and_that_is_counted(
    launcher: ProcessLauncher, model: Path, asked: str
) -> None:
    await launcher.build()
    before = free()
    options = EngineOptions(context=1024, slots=2, devices=(asked,))
    planned, message = await launcher.dry_run(str(model), options)
    assert planned is not None, message
    assert planned.keys() == {asked, "host"}
    assert touched(before) <= {asked}
    assert launcher.dry_runs.held == {asked: CUDA_PROCESS}
    assert before[asked] - free()[asked] <= CUDA_PROCESS


async def test_a_dry_run_of_a_model_in_host_memory_touches_no_card(
    launcher: ProcessLauncher, model: Path
) -> None:
    await launcher.build()
    before = free()
    options = EngineOptions(context=1024, slots=2, devices=("host",), gpu_layers=0)
    planned, message = await launcher.dry_run(str(model), options)
    assert planned is not None, message
    assert (touched(before), launcher.dry_runs.held) == (set(), {})


@pytest.mark.parametrize("placed", [gpu.name for gpu in GPUS])
async def test_a_loaded_model_and_a_spare_touch_no_other_card(
    launcher: ProcessLauncher, model: Path, placed: str
) -> None:
    before = free()
    options = EngineOptions(context=1024, slots=2, devices=(placed,))
    planned, message = await launcher.dry_run(str(model), options)
    assert planned is not None, message
    local = LocalModel("m", str(model), (Placement(options, planned),), options, identity([model]))
    async with launcher.launch("m#1", local, local.placements[0], quiet):
        await asyncio.sleep(1.0)  # the spare behind it
        assert touched(before) == {placed}
