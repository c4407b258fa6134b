"""
What loaded workers really hold: weighed after the load and at their peak, and kept for the next admission.

The one rule: weighing never fails or delays a load for long; what nobody can measure is what the worker says of
its buffers and what is known of its overhead.

Measured are, of a GPU, what NVML says of the process; where the driver hides processes, the memory that went while
the model was loaded. Of the host, the worker's own account (llama.cpp's buffers, and its private memory beyond
them), raised to its anonymous memory plus its mapped weights when that is more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass

from router.domain.memory import Bytes
from router.domain.models import Footprint, LocalModel, Placement
from router.domain.news import News
from router.runtime.asking import Asking
from router.runtime.client import WorkerClient
from router.runtime.launcher import ProcessLauncher
from router.sizing.ledger import Ledger, Sizes
from router.sizing.meter import HOST, Meter
from router.telemetry import logger

log = logger("runtime")

POLL_SECONDS = 2.0
_CHANGE = 16 * 2**20
"""Smaller changes of what strangers leave are not worth a word."""
_STRANGE = 2 * 2**30
"""A difference of free memory that is larger than the buffers by this was somebody else's doing."""


@dataclass(frozen=True, slots=True)
class _Life:
    model: LocalModel
    placement: Placement
    worker: WorkerClient
    said: Sizes
    """The worker's own account."""


class Weighing:
    """Implements `residency.manager.Launcher` around one that does not weigh."""

    def __init__(self, launcher: ProcessLauncher, meter: Meter, ledger: Ledger) -> None:
        self._launcher = launcher
        self._meter = meter
        self._ledger = ledger
        self._lives: dict[str, _Life] = {}
        self._asking = Asking()

    @contextlib.asynccontextmanager
    async def launch(
        self, instance: str, model: LocalModel, placement: Placement, tell: Callable[[News], None]
    ) -> AsyncGenerator[WorkerClient, None]:
        """As the launcher within; the worker's `resident` is what was measured, now or at an earlier peak."""
        before = await self._free(placement)
        async with self._launcher.launch(instance, model, placement, tell) as worker:
            life = _Life(model, placement, worker, dict(worker.resident))
            after = await self._free(placement)
            taken = {gpu: before[gpu] - size for gpu, size in after.items() if gpu in before}
            worker.resident = dict(await self._weigh(life, taken))
            self._lives[instance] = life
            try:
                yield worker
            finally:
                del self._lives[instance]

    async def watch(
        self,
        pids: Callable[[], Collection[int]],
        apply: Callable[[Bytes], None],
        every: float = POLL_SECONDS,
    ) -> None:
        """
        Until cancelled: look for new peaks, and tell `apply` how many bytes of each device we could hold at most.

        `pids`: all our processes; what others hold is a stranger's.
        """
        earlier: dict[str, int] = {}
        told: dict[str, int] = {}
        while True:
            await asyncio.sleep(every)
            try:
                room = await self._look(pids)
            except Exception:
                log.exception("the devices could not be looked at")
                continue
            # Free and held bytes are not read in one instant: what only one look sees is not there.
            steady = {device: max(size, earlier.get(device, size)) for device, size in room.items()}
            earlier = room
            if any(abs(size - told.get(device, 0)) > _CHANGE for device, size in steady.items()):
                told = steady
                apply(steady)

    async def _look(self, pids: Callable[[], Collection[int]]) -> dict[str, int]:
        for life in list(self._lives.values()):
            await self._weigh(life, {})
        booked = {life.worker.pid: _booked(life.worker) for life in self._lives.values()}
        return await self._asking.ask(lambda: self._meter.beside_strangers(pids(), booked))

    async def _weigh(self, life: _Life, taken: Bytes) -> Sizes:
        used = await self._asking.ask(lambda: self._meter.used_by(life.worker.pid))
        build = await self._launcher.build()
        found: dict[str, Footprint] = {}
        for device, held in life.said.items():
            if device == HOST:
                found[device] = _on_host(held, used.get(HOST, 0), life.worker.mapped)
                continue
            overhead = _on_gpu(held, used.get(device), taken.get(device))
            if overhead is not None:
                self._ledger.calibrate(build, device, overhead)
            known = life.placement.footprints.get(device, Footprint()).overhead
            found[device] = _with(held, known if overhead is None else overhead)
        return self._ledger.measure(build, life.model, life.placement.engine, found)

    async def _free(self, placement: Placement) -> dict[str, int]:
        gpus = [device for device in placement.footprints if device != HOST]
        if not gpus:
            return {}
        found = await self._asking.ask(lambda: {gpu: self._meter.free(gpu) for gpu in gpus})
        return {gpu: free for gpu, free in found.items() if free is not None}


def _booked(worker: WorkerClient) -> dict[str, int]:
    """Mapped weights are page cache, which the system counts as free."""
    held = {device: footprint.total for device, footprint in worker.resident.items()}
    return {device: size - (worker.mapped if device == HOST else 0) for device, size in held.items()}


def _on_host(held: Footprint, anonymous: int, mapped: int) -> Footprint:
    """Without mapped weights the worker is no real one, or has told all that there is to tell."""
    if not mapped:
        return held
    buffers = held.weights + held.kv_cache + held.compute
    return _with(held, max(held.overhead, anonymous + mapped - buffers))


def _on_gpu(held: Footprint, used: int | None, taken: int | None) -> int | None:
    """Bytes beyond the buffers; None where neither the driver nor the difference tells."""
    if used is not None:
        return max(used - held.total, 0)
    if taken is not None and held.total <= taken <= held.total + _STRANGE:
        return taken - held.total
    return None


def _with(held: Footprint, overhead: int) -> Footprint:
    return Footprint(held.weights, held.kv_cache, held.compute, overhead)
