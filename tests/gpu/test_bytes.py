"""Predicted bytes against NVML's, with small synthetic models; `tests.bench.gpu_bytes` does it with large ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.domain.models import ALL_LAYERS, EngineOptions, Footprint, LocalModel, Placement
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.runtime.weighing import Weighing
from router.sizing.devices import detect
from router.sizing.ledger import Ledger
from router.sizing.meter import Meter
from router.sizing.parts import identity
from router.telemetry import Metrics
from tests.bench.weigh import work
from tests.local import quiet
from tests.models import shapes

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.grouped(tmp_path_factory.mktemp("gpu") / "grouped.gguf")


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    async with Spares(1) as spares:
        yield ProcessLauncher(spares, Metrics())


@pytest.mark.parametrize("gpu_layers", [ALL_LAYERS, 4])
async def test_the_buffers_of_each_device_are_foretold_to_the_byte(
    launcher: ProcessLauncher, model: Path, tmp_path: Path, gpu_layers: int
) -> None:
    meter, ledger = Meter(detect()), Ledger(tmp_path / "l.json")
    engine = EngineOptions(context=2048, slots=4, devices=("gpu0",), gpu_layers=gpu_layers)
    planned, message = await launcher.dry_run(str(model), engine)
    assert planned is not None, message
    placement = Placement(engine, planned)
    local = LocalModel("m", str(model), (placement,), engine, identity([model]))
    async with Weighing(launcher, meter, ledger).launch("m#1", local, placement, quiet) as worker:
        for device, foretold in planned.items():
            assert buffers(worker.resident[device]) == buffers(foretold)
        await work(worker, engine)
        used = meter.used_by(worker.pid).get("gpu0")
    overhead = ledger.overhead(await launcher.build(), "gpu0")
    assert overhead is not None, "neither NVML nor the free memory told what the process holds"
    if used is not None:
        assert used == pytest.approx(planned["gpu0"].total + overhead, rel=0.05)


def buffers(held: Footprint) -> tuple[int, int, int]:
    return held.weights, held.kv_cache, held.compute
