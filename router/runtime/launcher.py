"""
From a model of the registry to a ready worker, and from there to a reaped process.

The one rule: who enters `launch` has a worker or an error; who leaves it has no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal

from router import protocol
from router.domain import news
from router.domain.errors import LoadFailed
from router.domain.models import EngineOptions, Footprint, LocalModel, Placement, together
from router.runtime.asking import Asking
from router.runtime.client import WorkerClient
from router.runtime.departure import Departure, Devices, NoDevices, overheads
from router.runtime.files import Hashes, check_identity
from router.runtime.probes import Probes
from router.runtime.process import WorkerProcess
from router.runtime.pulse import DEAF, Pulse, Watch
from router.runtime.spares import Spares
from router.sizing.devices import Device
from router.telemetry import Metrics, logger

log = logger("runtime")

Progress = Callable[[float], None]

_AFTER_WEIGHTS = 3
"""How many times longer than a stalled read the start of the context may take; it reports no progress."""


class ProcessLauncher:
    """Implements `residency.manager.Launcher` with processes. All durations in seconds."""

    def __init__(
        self,
        spares: Spares,
        metrics: Metrics,
        backend: Literal["llama", "echo"] = "llama",
        hang_seconds: float = 30.0,
        stall_seconds: float = 60.0,
        grace: float = 2.0,
        beat: float = 1.0,
        deaf_seconds: float = DEAF,
    ) -> None:
        self.devices: Devices = NoDevices()
        """Who confirms what a leaving worker freed."""
        self._asking = Asking()
        self._deaf_seconds = deaf_seconds
        self._spares = spares
        self._metrics = metrics
        self._backend = backend
        self._hang_seconds = hang_seconds
        self._stall_seconds = stall_seconds
        self._grace = grace
        self._beat = beat
        self._hashes = Hashes()
        self.dry_runs = Probes(spares)

    @contextlib.asynccontextmanager
    async def launch(
        self, instance: str, model: LocalModel, placement: Placement, tell: Callable[[news.News], None]
    ) -> AsyncGenerator[WorkerClient, None]:
        """
        Enter: verify, take a process, load. Leave: the process is gone, stopped if need be.

        A process that dies by itself during the load is replaced once, unseen by those who wait (G10).

        `tell` gets Progress from 0 to 1; half of it belongs to the hash, if one must be computed.
        Raises LoadFailed.
        """

        def progress(fraction: float) -> None:
            tell(news.Progress(fraction))

        weights = progress if self._hashes.known(model) else _share(progress, 0.5, 1.0)
        await self._hashes.verify(model, _share(progress, 0.0, 0.5))
        process = await self._taken(instance, model)
        confirming: list[asyncio.Task[None]] = []
        try:
            try:
                worker = await self._load(process, model, placement, weights)
            except _Died as death:  # it is reaped: what it held is free
                log.warning("a load is tried once more", instance=instance, reason=death.message)
                process = await self._taken(instance, model)
                worker = await self._load(process, model, placement, weights)
            watch = self._spares.own(
                worker.watch(self._hang_seconds, self._beat, self._deaf_seconds), f"watch-{instance}"
            )
            try:
                yield worker
            finally:
                watch.cancel()
                await self._prepare_to_leave(worker, placement, tell, confirming)
        finally:
            if not await process.stop(self._grace):
                tell(news.Stuck())
                await process.gone.wait()
            for task in confirming:
                task.cancel()

    async def _taken(self, instance: str, model: LocalModel) -> WorkerProcess:
        began = time.monotonic()
        process = await self._spares.take()
        process.instance = instance
        self._observe(model, "start", began)
        return process

    async def _prepare_to_leave(
        self,
        worker: WorkerClient,
        placement: Placement,
        tell: Callable[[news.News], None],
        confirming: list[asyncio.Task[None]],
    ) -> None:
        overhead = overheads(worker.resident, placement.footprints)
        departure = Departure(worker.pid, worker.resident, overhead, self.devices, self._asking)

        def freed() -> None:
            worker.on_freed = lambda: None  # it may say so as often as it likes
            confirming.append(self._spares.own(departure.confirm(tell), f"departure-{worker.pid}"))

        worker.on_freed = freed
        await departure.weigh()

    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        """What llama.cpp says it would allocate, or None and the reason. Raises ModelRefused."""
        return await self.dry_runs.dry_run(path, options)

    async def build(self) -> str:
        """The engine's build: part of the key under which dry runs are kept. Raises LoadFailed."""
        return await self.dry_runs.build()

    async def offloads(self) -> bool:
        """Whether the engine was built for a GPU. Raises LoadFailed."""
        return await self.dry_runs.offloads()

    async def _load(
        self, process: WorkerProcess, model: LocalModel, placement: Placement, progress: Progress
    ) -> WorkerClient:
        began = time.monotonic()
        try:
            check_identity(model)
            loaded = await self._watched(process, model, placement, progress)
            check_identity(model)  # it may have been replaced before the worker opened it
        finally:
            self._spares.refill()
        self._observe(model, "weights", began)
        size = together(loaded.resident.values()).total
        log.info("worker ready", instance=process.instance, pid=process.pid, bytes=size)
        return WorkerClient(process, loaded.facts, loaded.resident, loaded.mapped)

    async def _watched(
        self, process: WorkerProcess, model: LocalModel, placement: Placement, progress: Progress
    ) -> protocol.Loaded:
        """The load; a worker that is deaf meanwhile is found long before its progress is missed."""
        watch = Watch(process, Pulse(self._beat, math.inf, self._deaf_seconds), self._beat)
        watching = self._spares.own(watch.run(), f"watch-load-{process.pid}")
        try:
            loading = _Loading(process, progress, self._stall_seconds, watch.heard)
            return await loading.run(model, placement, self._backend)
        finally:
            watching.cancel()

    def _observe(self, model: LocalModel, phase: str, began: float) -> None:
        self._metrics.observe_load(model.name, phase, time.monotonic() - began)


async def usable(launcher: ProcessLauncher, found: Sequence[Device]) -> tuple[Device, ...]:
    """A GPU that the engine was not built for is none: its models would all fail there."""
    gpus = [device.name for device in found if device.kind == "cuda"]
    if not gpus or await launcher.offloads():
        return tuple(found)
    log.warning("the engine was built without GPU support; models go to host memory", gpus=gpus)
    return tuple(device for device in found if device.kind != "cuda")


class _Died(LoadFailed):
    """The process ended by itself, or by somebody else's hand, before it said anything of the load."""


class _Loading:
    """One load in flight. What bounds it is the time without progress, not its length."""

    def __init__(
        self,
        process: WorkerProcess,
        progress: Progress,
        stall_seconds: float,
        heard_pong: Callable[[protocol.Pong], None],
    ) -> None:
        self._heard_pong = heard_pong
        self._process = process
        self._progress = progress
        self._stall_seconds = stall_seconds
        self._result: asyncio.Future[protocol.Loaded] = asyncio.get_running_loop().create_future()
        self._fraction = 0.0
        self._heard = 0

    async def run(
        self, model: LocalModel, placement: Placement, backend: Literal["llama", "echo"]
    ) -> protocol.Loaded:
        self._process.on_event, self._process.on_gone = self._on_event, self._on_gone
        if self._process.doomed:
            self._on_gone()
        reserved = placement.bytes.get("host", 0)
        self._process.send(protocol.Load(model.path, placement.engine, backend, reserved))
        try:
            return await self._wait(model)
        finally:
            self._result.cancel()  # whoever kills the process now needs no answer

    async def _wait(self, model: LocalModel) -> protocol.Loaded:
        while True:
            heard = self._heard
            await asyncio.wait({self._result}, timeout=self._patience())
            if self._result.done():
                return self._result.result()
            if heard == self._heard:
                self._result.cancel()
                self._process.kill("killed because its load made no progress")
                raise LoadFailed(f"The load of {model.name} made no progress for {self._patience():g} s")

    def _patience(self) -> float:
        return self._stall_seconds * (_AFTER_WEIGHTS if self._fraction >= 1.0 else 1)

    def _on_event(self, event: protocol.WorkerEvent) -> None:
        if self._result.done():
            return
        match event:
            case protocol.LoadProgress():
                # A worker that repeats itself makes no progress.
                self._heard += event.fraction != self._fraction
                self._fraction = event.fraction
                self._progress(event.fraction)
            case protocol.Loaded():
                self._result.set_result(event)
            case protocol.LoadFailed():
                failed = LoadFailed(event.message, out_of_memory=event.out_of_memory)
                self._result.set_exception(failed)
            case protocol.Pong():
                self._heard_pong(event)
            case _:
                self._process.kill(f"killed because it sent {type(event).__name__} during a load")

    def _on_gone(self) -> None:
        if not self._result.done():
            died = f"The worker {self._process.instance} died during the load: {self._process.end()}"
            kind = LoadFailed if self._process.put_down else _Died
            self._result.set_exception(kind(died))


def _share(progress: Progress, start: float, end: float) -> Progress:
    return lambda fraction: progress(start + (end - start) * fraction)
