from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.errors import ModelRefused
from router.domain.models import ALL_LAYERS, EngineOptions, Footprint
from router.registry import fit
from router.registry.refine import Refiner
from router.sizing.devices import Device
from router.sizing.estimate import CUDA_PROCESS
from router.sizing.ledger import Ledger
from tests.registry.conftest import HOST, Folder

MiB = 2**20
GPU = Device("gpu0", "cuda", 1000 * MiB, 1000 * MiB)
ONE = "version: 1\nmodels:\n  a: {path: a.gguf}\n"
EXACT = {"host": Footprint(10, 20, 30, 40)}


class DryRuns:
    """The part of the launcher that the refiner uses: the same answer to every question, or one by layers."""

    def __init__(self, answer: dict[str, Footprint] | None = None, by_layer: int = 0) -> None:
        self.answer = answer
        self.by_layer = by_layer
        self.asked: list[EngineOptions] = []

    async def build(self) -> str:
        return "build-1"

    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        self.asked.append(options)
        if self.by_layer:
            count = 2 if options.gpu_layers == ALL_LAYERS else options.gpu_layers
            return {options.devices[0]: Footprint(count * self.by_layer), "host": Footprint(1)}, ""
        return self.answer, "" if self.answer else "it crashed"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "footprints.json")


async def test_a_dry_run_replaces_the_formula_once_and_is_remembered(folder: Folder, ledger: Ledger) -> None:
    folder.model()
    runs = DryRuns(EXACT)
    registry = folder.load(ONE)
    refined = await Refiner(runs, ledger).refine(registry)
    (way,) = refined.models["a"].placements
    assert way.footprints == EXACT
    assert registry.models["a"].placements[0].footprints != EXACT
    again = await Refiner(runs, ledger).refine(registry)
    assert again == refined
    assert len(runs.asked) == 1


async def test_without_a_dry_run_the_formula_stands(folder: Folder, ledger: Ledger) -> None:
    folder.model()
    registry = folder.load(ONE)
    assert await Refiner(DryRuns(None), ledger).refine(registry) == registry


async def test_a_model_without_a_file_is_not_asked_about(folder: Folder, ledger: Ledger) -> None:
    runs = DryRuns(EXACT)
    registry = folder.load(ONE)
    assert await Refiner(runs, ledger).refine(registry) == registry
    assert runs.asked == []


async def test_auto_is_decided_by_dry_runs_not_by_the_formula(folder: Folder, ledger: Ledger) -> None:
    folder.model()
    registry = folder.load(ONE, [GPU, HOST])
    refined = await Refiner(DryRuns(by_layer=150 * MiB), ledger).refine(registry)
    (way,) = refined.models["a"].placements
    # 800 MiB hold the overhead of 600 and one layer of 150, though the formula would place both.
    assert registry.models["a"].placements[0].engine.gpu_layers == ALL_LAYERS
    assert (way.engine.gpu_layers, way.bytes["gpu0"]) == (1, CUDA_PROCESS + 150 * MiB)
    (warning,) = fit.judge(refined).warnings
    assert "models.a: 1 of 2 layers fit the budget of gpu0" in warning


async def test_a_calibrated_overhead_replaces_the_assumed_one(folder: Folder, ledger: Ledger) -> None:
    folder.model()
    ledger.calibrate("build-1", "gpu0", 400 * MiB)
    refined = await Refiner(DryRuns(by_layer=150 * MiB), ledger).refine(folder.load(ONE, [GPU, HOST]))
    (way,) = refined.models["a"].placements
    assert (way.engine.gpu_layers, way.bytes["gpu0"]) == (ALL_LAYERS, 700 * MiB)


async def test_what_was_measured_is_reserved_and_the_estimate_stays(folder: Folder, ledger: Ledger) -> None:
    folder.model()
    registry = folder.load(ONE)
    (way,) = (await Refiner(DryRuns(EXACT), ledger).refine(registry)).models["a"].placements
    ledger.measure("build-1", registry.models["a"], way.engine, {"host": Footprint(3 * MiB)})
    (known,) = (await Refiner(DryRuns(EXACT), ledger).refine(registry)).models["a"].placements
    assert known.bytes == {"host": 3 * MiB}
    assert known.footprints == EXACT


class Refusing(DryRuns):
    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        await super().dry_run(path, options)
        raise ModelRefused("unknown model\narchitecture")


async def test_a_refusal_is_the_models_problem_with_its_line_and_is_remembered(
    folder: Folder, tmp_path: Path, ledger: Ledger
) -> None:
    folder.model()
    runs = Refusing()
    registry = folder.load(ONE)
    refined = await Refiner(runs, ledger).refine(registry)
    assert refined.models["a"].problem == "unknown model?architecture"
    assert folder.short(refined.warnings) == ["registry.yaml:3:3: models.a: unknown model?architecture"]
    assert await Refiner(runs, Ledger(tmp_path / "footprints.json")).refine(registry) == refined
    assert len(runs.asked) == 1


async def test_another_file_is_asked_about_again_even_under_a_pinned_hash(
    folder: Folder, ledger: Ledger
) -> None:
    folder.model()
    pinned = ONE.replace("a.gguf", f"a.gguf, sha256: {'a' * 64}")
    runs = Refusing()
    await Refiner(runs, ledger).refine(folder.load(pinned))
    folder.model(width=64)
    refined = await Refiner(DryRuns(EXACT), ledger).refine(folder.load(pinned))
    assert refined.models["a"].problem is None
    assert refined.models["a"].placements[0].footprints == EXACT


async def test_a_footprint_is_exact_by_a_dry_run_or_a_measurement(folder: Folder, ledger: Ledger) -> None:
    folder.model()
    registry = folder.load(ONE)
    (way,) = (await Refiner(DryRuns(None), ledger).refine(registry)).models["a"].placements
    assert not way.exact
    ledger.measure("build-1", registry.models["a"], way.engine, {"host": Footprint(3 * MiB)})
    (way,) = (await Refiner(DryRuns(None), ledger).refine(registry)).models["a"].placements
    assert way.exact
