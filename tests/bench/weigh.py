"""
One model through a real worker: what was foretold, what it says that it holds, what the system says at its peak.

The one rule: nothing here is added up by our own formulas; three parties are asked for the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from router.domain.generation import GenerationRequest, SamplingParams, TokenPrompt
from router.domain.models import EngineOptions, Footprint, LocalModel, Placement
from router.domain.news import News
from router.runtime.client import WorkerClient
from router.runtime.launcher import ProcessLauncher
from router.sizing.meter import Meter
from router.sizing.parts import identity


@dataclass(frozen=True)
class Weighed:
    """Bytes by device. `system`: NVML of a GPU; of the host anonymous memory and the weights read from the file."""

    planned: Mapping[str, Footprint]
    measured: Mapping[str, Footprint]
    loaded: Mapping[str, int]
    peak: Mapping[str, int]
    pid: int

    def error(self, device: str) -> float:
        """Of the foretold bytes against the measured ones; 0.01 is one per cent too much."""
        return self.planned[device].total / self.measured[device].total - 1


def model_of(path: Path, options: EngineOptions) -> LocalModel:
    return LocalModel(path.stem, str(path), (Placement(options, {}),), options, identity([path]))


async def weigh(launcher: ProcessLauncher, meter: Meter, path: Path, options: EngineOptions) -> Weighed:
    """Dry run, load, a full prefill and some tokens in every slot. Raises LoadFailed, or AssertionError."""
    model = model_of(path, options)
    planned, message = await launcher.dry_run(model.path, options)
    assert planned is not None, message
    async with launcher.launch(f"{model.name}#1", model, Placement(options, planned), _quiet) as worker:
        loaded = system(meter, worker, path)
        await work(worker, options)
        peak = system(meter, worker, path)
        return Weighed(planned, dict(worker.resident), loaded, peak, worker.pid)


async def work(worker: WorkerClient, options: EngineOptions, tokens: int = 8) -> None:
    """Every slot reads more than a micro-batch, if its context holds that, and answers."""
    length = max(min(options.ubatch + 100, options.context - tokens - 1), 1)
    prompt = TokenPrompt(tuple(range(65, 91)) * (length // 26 + 1))
    async with asyncio.TaskGroup() as tasks:
        for slot in range(options.slots):
            cut = TokenPrompt(prompt.tokens[:length])
            params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
            tasks.create_task(_answered(worker, GenerationRequest(f"w{slot}", cut, params)))


async def _answered(worker: WorkerClient, request: GenerationRequest) -> None:
    async for _ in worker.generate(request):
        pass


def system(meter: Meter, worker: WorkerClient, path: Path) -> dict[str, int]:
    """Originals of copied weights that lie beside what is read are mapped along with it, and do not count."""
    held = meter.used_by(worker.pid)
    held["host"] = held.get("host", 0) + min(mapped(worker.pid, path), worker.mapped)
    return held


def mapped(pid: int, path: Path) -> int:
    """Bytes of a file that are in a process's memory."""
    total, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.partition(" ")[0]:
            ours = line.endswith(str(path.resolve()))
        elif ours and name == "Rss":
            total += int(rest.split()[0]) * 1024
    return total


def _quiet(news: News) -> None:
    """Nobody listens."""
