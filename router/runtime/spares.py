"""
Warm workers without a model, and the task group in which every worker process lives.

The one rule: every process started here is reaped before the context ends.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self

from router import protocol
from router.domain.errors import LoadFailed
from router.runtime.process import WORKER, WorkerProcess
from router.runtime.pulse import Pulse, Watch
from router.supervisor import contained, restarted
from router.telemetry import logger

log = logger("runtime")

_Greeting = asyncio.Future[protocol.WorkerEvent]
_Born = tuple[WorkerProcess, _Greeting]

_NOTHING_MORE: Mapping[str, str] = {}
_BACKOFF = 0.5
_BACKOFF_MAX = 30.0


class Spares:
    """Keeps `count` greeted workers ready. An async context manager; leaving it stops every worker."""

    def __init__(
        self,
        count: int,
        backend: str = "llama",
        command: Sequence[str] = WORKER,
        hello_seconds: float = 30.0,
        backoff: float = _BACKOFF,
        sandbox: str = "auto",
        beat: float = 1.0,
        beside: bool = False,
    ) -> None:
        """`beside`: there are processors enough to start new spares while a model loads, not only after it."""
        self._beside = beside
        self._beat = beat
        self.sandbox: tuple[str, ...] | None = None
        """What the newest worker was seen to be held by; None = none has greeted yet."""
        self._told_of_sandbox = sandbox
        self._count = count
        self._backend = backend
        self._command = command
        self._hello_seconds = hello_seconds
        self._backoff = self._pause = backoff
        self._idle: deque[WorkerProcess] = deque()
        self._all: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._watches: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self._starts: set[asyncio.Task[None]] = set()
        self._ending = False
        self._wanted = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._wanted.set()
        self._keeper = self.own(restarted(self._keep, "spares"), "spares")
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            if self._keeper is not None:
                self._keeper.cancel()
            for start in self._starts:
                start.cancel()
            self._ending = True
            self._disappoint(LoadFailed("The gateway is stopping"))
            self._idle.clear()
            for watch in self._watches.values():
                watch.cancel()
            async with asyncio.TaskGroup() as stops:
                for process in list(self._all):
                    stops.create_task(process.stop(), name=f"stop-{process.pid}")
            for life in self._all.values():  # stuck in the kernel: not even our end waits for it
                life.cancel()
        finally:
            # Not the body's exception: the group would wrap it, and it is not the group's own.
            await self._tasks.__aexit__(None, None, None)

    @property
    def idle(self) -> tuple[int, ...]:
        """Process ids of the workers that are ready to be taken."""
        return tuple(process.pid for process in self._idle)

    @property
    def pids(self) -> tuple[int, ...]:
        """Every worker process that lives, loaded or not."""
        return tuple(process.pid for process in self._all)

    def own(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        """Run something that belongs to a worker for as long as the house stands; an error in it is logged."""
        task = self._tasks.create_task(contained(work, name), name=name)
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step it was never begun
        return task

    async def take(self) -> WorkerProcess:
        """
        A greeted worker that is the caller's from now on. Raises LoadFailed when none can be had.

        On few processors no new spare is started until `refill`: it would compete with the load.
        """
        while self._idle:
            process = self._idle.popleft()
            process.on_event, process.on_gone = _unexpected(process), _nothing
            self._watches.pop(process).cancel()
            if not process.doomed:
                self._pause = self._backoff
                self._taken()
                return process
        if len(self._waiting) < len(self._starts):
            try:
                return await self._take_the_coming_one()
            except LoadFailed:
                if self._ending:
                    raise
        return await self.start()  # after a spare that came to nothing, too: the model is not at fault

    def _taken(self) -> None:
        if self._beside:
            self.refill()

    def refill(self) -> None:
        """Start new spares behind those that were taken."""
        self._wanted.set()

    async def start(self, environment: Mapping[str, str] = _NOTHING_MORE) -> WorkerProcess:
        """Start one worker and wait for its greeting. `environment`: as of `WorkerProcess.spawn`. Raises LoadFailed."""
        # Half a birth cannot be cancelled without leaking a pipe; so it goes on and what is born is killed.
        birth = self._tasks.create_task(self._bear(environment), name="spawn")
        try:
            born = await asyncio.shield(birth)
        except asyncio.CancelledError:
            birth.add_done_callback(_unwanted)
            raise
        if isinstance(born, LoadFailed):
            raise born
        process, greeting = born
        try:
            await self._greeted(process, greeting)
        except BaseException:
            process.kill("killed because it did not greet in time")
            raise
        return process

    async def _bear(self, environment: Mapping[str, str]) -> _Born | LoadFailed:
        try:
            process = await WorkerProcess.spawn(
                self._backend, self._command, self._told_of_sandbox, environment
            )
        except LoadFailed as error:
            return error  # raised here it would end the whole group
        except Exception as error:
            log.exception("a worker process could not be started")
            return LoadFailed(f"No worker process could be started: {error}")
        # Heard from the first: in a gateway that is held up the greeting is there before whoever waits for it.
        greeting = _greeting(process)
        self._all[process] = self.own(self._live(process), f"worker-{process.pid}")
        return process, greeting

    async def _live(self, process: WorkerProcess) -> None:
        try:
            await process.live()
        except Exception:
            log.exception("a worker's end was not as it should be", pid=process.pid)
        finally:
            self._all.pop(process, None)

    async def _greeted(self, process: WorkerProcess, greeting: _Greeting) -> None:
        try:
            async with asyncio.timeout(self._hello_seconds):
                process.hello = _checked(await greeting)
        except TimeoutError as error:
            raise LoadFailed(f"A worker process said nothing for {self._hello_seconds:g} s") from error
        finally:
            process.on_event, process.on_gone = _unexpected(process), _nothing
        self._note_sandbox(process.hello.sandbox)

    def _note_sandbox(self, holds: tuple[str, ...]) -> None:
        if holds != self.sandbox:
            lacking = sorted(set(protocol.sandbox_layers(self._told_of_sandbox)) - set(holds))
            say = log.warning if lacking else log.info
            say("workers are sandboxed" if holds else "workers are not sandboxed", by=holds, lacking=lacking)
        self.sandbox = holds

    async def _take_the_coming_one(self) -> WorkerProcess:
        place: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._shelve(place.result())  # it came in the very tick in which we left
            raise
        finally:
            if place in self._waiting:
                self._waiting.remove(place)

    async def _keep(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for _ in range(self._count - len(self._idle) - len(self._starts)):
                start = self.own(self._start_spare(), "start-spare")
                self._starts.add(start)
                start.add_done_callback(self._starts.discard)

    def _refill_later(self) -> None:
        """The pause doubles with every death of a spare, until one is of use again."""
        asyncio.get_running_loop().call_later(self._pause, self.refill)
        self._pause = min(self._pause * 2, _BACKOFF_MAX)

    async def _start_spare(self) -> None:
        try:
            process = await self.start()
        except LoadFailed as error:
            log.error("no spare worker could be started", error=error.message)
            self._disappoint(error)
            self._refill_later()
        else:
            self._shelve(process)

    def _shelve(self, process: WorkerProcess) -> None:
        """Keep it, unless somebody waits for it."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(process)
                # Not at once: the start that brought it counts until it has ended.
                asyncio.get_running_loop().call_soon(self._taken)
                return
        self._watch(process)
        process.on_gone = lambda: self._lost(process)
        self._idle.append(process)
        if process.doomed:
            self._lost(process)

    def _watch(self, process: WorkerProcess) -> None:
        """A spare that was frozen must be found before a load is given to it."""
        watch = Watch(process, Pulse(self._beat, math.inf), self._beat)
        unexpected = _unexpected(process)

        def hear(event: protocol.WorkerEvent) -> None:
            watch.heard(event) if isinstance(event, protocol.Pong) else unexpected(event)

        process.on_event = hear
        self._watches[process] = self.own(watch.run(), f"watch-spare-{process.pid}")

    def _disappoint(self, error: LoadFailed) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    def _lost(self, process: WorkerProcess) -> None:
        if process in self._idle:
            self._idle.remove(process)
            self._watches.pop(process).cancel()
            log.warning("a spare worker died", pid=process.pid, how=process.end())
            self._refill_later()


def _greeting(process: WorkerProcess) -> _Greeting:
    """Its first event, or LoadFailed when it dies before."""
    greeting: _Greeting = asyncio.get_running_loop().create_future()

    def hear(event: protocol.WorkerEvent) -> None:
        if not greeting.done():
            greeting.set_result(event)

    def mourn() -> None:
        if not greeting.done():
            greeting.set_exception(LoadFailed(f"A worker process did not start: {process.end()}"))

    process.on_event, process.on_gone = hear, mourn
    return greeting


def _checked(event: protocol.WorkerEvent) -> protocol.Hello:
    if not isinstance(event, protocol.Hello):
        raise LoadFailed(f"A worker process began with {type(event).__name__} instead of Hello")
    if event.version != protocol.VERSION:
        raise LoadFailed(
            f"The worker process speaks protocol {event.version}, this gateway {protocol.VERSION}: "
            "both must come from the same installation; restart the gateway"
        )
    return event


def _unexpected(process: WorkerProcess) -> Any:
    def hear(event: protocol.WorkerEvent) -> None:
        if not isinstance(event, protocol.Pong):  # the answer to its watch's last ping may be on its way
            process.kill(f"killed because it sent {type(event).__name__} out of turn")

    return hear


def _unwanted(birth: asyncio.Task[_Born | LoadFailed]) -> None:
    if birth.cancelled() or isinstance(born := birth.result(), LoadFailed):
        return
    process, greeting = born
    greeting.cancel()
    process.kill("killed because nobody wants it any more")


def _nothing() -> None:
    """For whoever does not want to hear."""
