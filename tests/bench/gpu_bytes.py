"""
`python -m tests.bench.gpu_bytes A.gguf [B.gguf ...]`: predicted bytes beside NVML's, on a machine with a GPU.

The one rule: every figure is of a worker process started by the launcher that serves; no model is loaded in here.
A case that fails is reported and the next one runs.

For each model: whole on the first GPU, then the first --layers layers of it only (the rest in host memory), and split
over all GPUs if there are several. The overhead of a process is calibrated by the first case; the errors of all cases
are shown with it, and with the calibrated value the plan of a gateway that has served once is foretold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.domain.models import ALL_LAYERS, EngineOptions, Footprint, LocalModel, Placement
from router.domain.news import News
from router.registry import loader
from router.registry.refine import Refiner
from router.runtime.launcher import ProcessLauncher
from router.runtime.probe import IDLE_SECONDS
from router.runtime.spares import Spares
from router.runtime.weighing import Weighing
from router.sizing.devices import Device, detect
from router.sizing.ledger import Ledger
from router.sizing.meter import HOST, Meter
from router.sizing.parts import identity
from router.telemetry import Metrics, configure_logging
from tests.bench.weigh import system, work

MiB = 2**20
PROBE_LEAVES = IDLE_SECONDS + 2
"""Seconds: the process of the dry runs holds device memory until it goes."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--layers", type=int, default=10, help="layers on the GPU in the partial case")
    parser.add_argument("--json", type=Path, help="write everything there as well")
    return parser.parse_args(arguments)


class Bench:
    def __init__(self, chosen: argparse.Namespace, found: Sequence[Device], folder: Path) -> None:
        self._chosen = chosen
        self._found = found
        self._gpus = [device.name for device in found if device.kind == "cuda"]
        self._meter = Meter(found)
        self._ledger = Ledger(folder / "ledger.json")
        self._folder = folder
        self._pids: Callable[[], tuple[int, ...]] = tuple
        self.cases: list[dict[str, Any]] = []

    async def run(self) -> None:
        async with Spares(1) as spares:
            self._pids = lambda: spares.pids
            launcher = ProcessLauncher(spares, Metrics())
            print(f"engine: {await launcher.build()}; offloads: {await launcher.offloads()}")
            print(
                "devices:",
                *(f"{d.name} {d.total / MiB:.0f} MiB, {d.free / MiB:.0f} free;" for d in self._found),
            )
            weighing = Weighing(launcher, self._meter, self._ledger)
            for path in self._chosen.models:
                for what, engine in self._ways():
                    await self._case(what, path, engine, launcher, weighing)
            await self._plans(launcher)

    def _ways(self) -> list[tuple[str, EngineOptions]]:
        def engine(**more: Any) -> EngineOptions:
            return EngineOptions(context=self._chosen.context, slots=self._chosen.slots, **more)

        first = tuple(self._gpus[:1])
        ways = [
            ("whole", engine(devices=first, gpu_layers=ALL_LAYERS)),
            (f"{self._chosen.layers} layers", engine(devices=first, gpu_layers=self._chosen.layers)),
            ("host", engine(devices=(HOST,), gpu_layers=0)),
        ]
        if len(self._gpus) > 1:
            even = tuple(round(1 / len(self._gpus), 4) for _ in self._gpus)
            ways.append(("split", engine(devices=tuple(self._gpus), gpu_layers=ALL_LAYERS, split=even)))
        return ways

    async def _case(
        self, what: str, path: Path, engine: EngineOptions, launcher: ProcessLauncher, weighing: Weighing
    ) -> None:
        print(f"\n{path.name}, {what}")
        try:
            async with asyncio.timeout(240):
                case = await self._weighed(path, engine, launcher, weighing)
        except Exception as error:
            traceback.print_exc()
            case = {"error": f"{type(error).__name__}: {error}"}
        self.cases.append({"model": path.name, "what": what, **case})

    async def _weighed(
        self, path: Path, engine: EngineOptions, launcher: ProcessLauncher, weighing: Weighing
    ) -> dict[str, Any]:
        began = time.monotonic()
        planned, message = await launcher.dry_run(str(path), engine)
        if planned is None:
            raise RuntimeError(f"no dry run: {message}")
        held = {pid: self._meter.used_by(pid) for pid in self._pids()}
        shown = {
            pid: {d: f"{size / MiB:.0f} MiB" for d, size in sizes.items()} for pid, sizes in held.items()
        }
        print(f"  dry run in {time.monotonic() - began:.2f} s; our processes (spare, probe) hold {shown}")
        await asyncio.sleep(PROBE_LEAVES)
        began = time.monotonic()
        build = await launcher.build()
        way = Placement(
            engine, {device: self._known(build, device, held) for device, held in planned.items()}
        )
        model = LocalModel(path.stem, str(path), (way,), engine, identity([path]))
        case: dict[str, Any] = {"predicted": facts(way.footprints)}
        free_before = self._free()
        async with asyncio.TaskGroup() as tasks:
            async with timed(weighing.launch(f"{path.stem}#1", model, way, quiet), case) as worker:
                case["load_s"] = round(time.monotonic() - began, 3)
                case["measured"] = facts(worker.resident)
                case["system_loaded"] = system(self._meter, worker, path)
                await work(worker, engine)
                case["system_peak"] = system(self._meter, worker, path)
                gone = {gpu: free_before[gpu] - now for gpu, now in self._free().items()}
                case["free_difference"] = {gpu: f"{size / MiB:.1f} MiB" for gpu, size in gone.items()}
                freed = tasks.create_task(self._until_free(free_before, time.monotonic()))
        case["freed_s"] = freed.result()
        case["errors"] = self._errors(way.footprints, case["system_peak"])
        self._show(case, way)
        return case

    def _known(self, build: str, device: str, held: Footprint) -> Footprint:
        if device == HOST:
            return held
        overhead = self._ledger.overhead(build, device) or 600 * MiB
        return Footprint(held.weights, held.kv_cache, held.compute, overhead)

    def _free(self) -> dict[str, int]:
        return {gpu: free for gpu in self._gpus if (free := self._meter.free(gpu)) is not None}

    def _errors(self, predicted: Mapping[str, Footprint], peak: dict[str, int]) -> dict[str, float]:
        return {
            device: round(held.total / peak[device] - 1, 4)
            for device, held in predicted.items()
            if peak.get(device)
        }

    async def _until_free(self, before: dict[str, int], since: float) -> dict[str, float | None]:
        """Seconds until each GPU has its memory back but for 16 MiB, at most 10."""
        waiting = dict(before)
        took: dict[str, float | None] = dict.fromkeys(before)
        while waiting and time.monotonic() - since < 10:
            for gpu, free in (await asyncio.to_thread(self._free)).items():
                if gpu in waiting and free >= waiting[gpu] - 16 * MiB:
                    took[gpu] = round(time.monotonic() - since, 4)
                    del waiting[gpu]
            await asyncio.sleep(0.002)
        return took

    def _show(self, case: dict[str, Any], way: Placement) -> None:
        for device, held in way.footprints.items():
            parts = f"{held.weights / MiB:.1f} + {held.kv_cache / MiB:.1f} + {held.compute / MiB:.1f}"
            print(
                f"  {device:>5}: predicted {parts} + {held.overhead / MiB:.1f} = {held.total / MiB:.1f} MiB; "
                f"system {_size(case['system_loaded'], device)} loaded, {_size(case['system_peak'], device)} at peak; "
                f"error {case['errors'].get(device, float('nan')):+.2%}"
            )
        print(
            f"  load {case['load_s']} s, free memory went down by {case['free_difference']}, "
            f"back after {case['freed_s']} s, process gone after {case.get('gone_s')} s"
        )

    async def _plans(self, launcher: ProcessLauncher) -> None:
        """What a gateway that has served once makes of these models under a budget that holds half of the largest."""
        build = await launcher.build()
        print("\ncalibrated overhead:", {gpu: self._ledger.overhead(build, gpu) for gpu in self._gpus})
        lines = [
            f"  m{number}: {{path: {path.absolute()}}}" for number, path in enumerate(self._chosen.models)
        ]
        for budget in ("80%", "4GiB"):
            text = f"version: 1\ndevices: {{gpu0: {{budget: {budget}}}}}\nmodels:\n" + "\n".join(lines) + "\n"
            file = self._folder / "registry.yaml"
            file.write_text(text)
            try:
                loaded = await asyncio.to_thread(loader.load, file, self._found, self._folder)
                began = time.monotonic()
                refined = await Refiner(launcher, self._ledger).refine(loaded)
            except Exception:
                traceback.print_exc()
                continue
            print(f"plan with {budget} of gpu0, in {time.monotonic() - began:.2f} s:")
            for model in refined.models.values():
                way = model.placements[0]
                sizes = {device: f"{size / MiB:.0f} MiB" for device, size in way.bytes.items()}
                print(
                    f"  {Path(model.path).name}: gpu_layers {way.engine.gpu_layers}, {sizes} {way.warning or ''}"
                )


@contextlib.asynccontextmanager
async def timed(
    launch: contextlib.AbstractAsyncContextManager[Any], case: dict[str, Any]
) -> AsyncIterator[Any]:
    """Notes how long leaving takes: until the process is reaped."""
    left = 0.0
    async with launch as worker:
        yield worker
        left = time.monotonic()
    case["gone_s"] = round(time.monotonic() - left, 4)


def facts(footprints: Mapping[str, Footprint]) -> dict[str, dict[str, int]]:
    return {
        device: {
            "weights": held.weights,
            "kv_cache": held.kv_cache,
            "compute": held.compute,
            "overhead": held.overhead,
            "total": held.total,
        }
        for device, held in footprints.items()
    }


def _size(sizes: dict[str, int], device: str) -> str:
    return f"{sizes[device] / MiB:.1f}" if device in sizes else "unknown"


def quiet(news: News) -> None:
    """Nobody listens."""


def main() -> int:
    chosen = parse()
    configure_logging("warning")
    found = detect()
    if not any(device.kind == "cuda" for device in found):
        print("error: NVML shows no GPU here", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="router-gpu-bytes-") as folder:
        bench = Bench(chosen, found, Path(folder))
        try:
            asyncio.run(bench.run())
        finally:
            if chosen.json:
                chosen.json.parent.mkdir(parents=True, exist_ok=True)
                chosen.json.write_text(json.dumps(bench.cases, indent=1))
    failed = [case for case in bench.cases if "error" in case]
    print(f"\n{len(bench.cases)} cases, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
