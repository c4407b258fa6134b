"""
One process for dry runs: what would llama.cpp allocate? Asked of a worker that is never given a model.

The one rule: no spare is used for this; on a GPU a dry run leaves device memory behind in its process.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping

from router import protocol
from router.domain.errors import LoadFailed, ModelRefused
from router.domain.models import EngineOptions, Footprint
from router.runtime.process import WorkerProcess
from router.runtime.spares import Spares

_NOTHING_MORE: Mapping[str, str] = {}
IDLE_SECONDS = 5.0
"""How long the process stays for the next question."""
ANSWER_SECONDS = 60.0


class Probe:
    """Starts its process when asked, shares it among the questions of a few seconds, stops it."""

    def __init__(
        self,
        spares: Spares,
        idle_seconds: float = IDLE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        environment: Mapping[str, str] = _NOTHING_MORE,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`environment`: of its processes, beside what every worker gets. `changed`: told when `processes` changes."""
        self.processes = 0
        """How many there are, from before the start until it is gone."""
        self._environment = environment
        self._changed = changed
        self._spares = spares
        self._idle_seconds = idle_seconds
        self._answer_seconds = answer_seconds
        self._ids = itertools.count(1)
        self._open: dict[str, asyncio.Future[protocol.DryRunDone]] = {}
        self._asked: dict[str, WorkerProcess] = {}
        """Question -> whom: one that leaves takes no question of the next one with it."""
        self._process: WorkerProcess | None = None
        self._starting: asyncio.Future[WorkerProcess] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._build: str | None = None
        self._offloads = False

    async def build(self) -> str:
        """The engine's build, as a worker of this installation says it. Raises LoadFailed."""
        if self._build is None:
            await self._alive()
        assert self._build is not None
        return self._build

    async def offloads(self) -> bool:
        """Whether that build can use a GPU. Raises LoadFailed."""
        await self.build()
        return self._offloads

    async def dry_run(self, path: str, options: EngineOptions) -> tuple[dict[str, Footprint] | None, str]:
        """
        The footprints by device name, or None and the reason: also when the question crashed or froze the process.

        Raises ModelRefused when the engine answered that it does not run the file with these options.
        """
        try:
            process = await self._alive()
        except LoadFailed as error:
            return None, error.message
        id = f"dry-{next(self._ids)}"
        self._asked[id] = process
        answer = self._open[id] = asyncio.get_running_loop().create_future()
        try:
            process.send(protocol.DryRun(id, path, options))
            async with asyncio.timeout(self._answer_seconds):
                done = await answer
            if done.refused:
                raise ModelRefused(done.message)
            return done.footprints, done.message
        except TimeoutError:
            process.kill("killed because a dry run did not end")
            return None, f"the dry run did not end within {self._answer_seconds:g} s"
        finally:
            del self._open[id], self._asked[id]
            self._rest()

    async def _alive(self) -> WorkerProcess:
        """The running process, or a new one; a start is shared by all who ask meanwhile."""
        while True:
            if self._alarm is not None:
                self._alarm.cancel()
            if self._process is not None and not self._process.doomed:
                return self._process
            if self._starting is None:
                return await self._start()
            await asyncio.wait({self._starting})

    async def _start(self) -> WorkerProcess:
        self._starting = asyncio.get_running_loop().create_future()
        self._counted(1)
        try:
            process = await self._spares.start(self._environment)
        except BaseException:
            self._counted(-1)
            raise
        finally:
            self._starting.cancel()  # wakes the others; each looks for itself
            self._starting = None
        process.instance = "probe"
        process.on_event = self._on_event
        process.on_gone = lambda: self._on_gone(process)
        if process.lost.is_set():  # before anybody listened
            self._on_gone(process)
            raise LoadFailed(f"A worker process ended before it was used: {process.end()}")
        self._process = process
        assert process.hello is not None
        self._build, self._offloads = process.hello.build, process.hello.gpu_offload
        self._rest()
        return process

    def _rest(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._open:
            self._alarm = asyncio.get_running_loop().call_later(self._idle_seconds, self._retire)

    def _retire(self) -> None:
        process, self._process = self._process, None
        if process is not None and not process.gone.is_set():
            self._spares.own(process.stop(), f"stop-{process.pid}")

    def _on_event(self, event: protocol.WorkerEvent) -> None:
        if isinstance(event, protocol.DryRunDone):
            self._answer(event)

    def _counted(self, more: int) -> None:
        self.processes += more
        self._changed()

    def _on_gone(self, process: WorkerProcess) -> None:
        self._counted(-1)
        for id in [id for id, asked in self._asked.items() if asked is process]:
            self._answer(protocol.DryRunDone(id, None, f"the dry run crashed: {process.end()}"))

    def _answer(self, done: protocol.DryRunDone) -> None:
        answer = self._open.get(done.id)
        if answer is not None and not answer.done():
            answer.set_result(done)
