"""A worker process that is a list of frames: what the gateway sent, and a way to say what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from router import protocol
from router.domain.errors import LoadFailed
from router.domain.models import Footprint

FACTS = protocol.EngineFacts(512, 2, 100, 8, True, True)
LOADED = protocol.Loaded(FACTS, {"host": Footprint(weights=9)})


class FakeProcess:
    """Answers each command through `answer`; `die` ends it."""

    def __init__(self, answer: Callable[[FakeProcess, protocol.Command], None] = lambda *_: None) -> None:
        self.answer = answer
        self.sent: list[protocol.Command] = []
        self.pid = 4242
        self.instance = "spare"
        self.hello: protocol.Hello | None = protocol.Hello(protocol.VERSION, self.pid, "fake build", False)
        self.on_event: Callable[[protocol.WorkerEvent], None] = lambda event: None
        self.on_gone: Callable[[], None] = lambda: None
        self.gone = asyncio.Event()
        self.lost = asyncio.Event()
        self.unkillable = False
        self.lingers = False
        """It ends by itself after a Stop, when `answer` says so."""
        self.killed: list[str] = []
        self._heard = asyncio.Event()
        self.how = "exited with code 0"
        self.cpu = 0.0
        self.cpu_rate = 0.0
        """Seconds of processor time that each look at it adds."""

    @property
    def doomed(self) -> bool:
        return bool(self.killed) or self.gone.is_set()

    @property
    def put_down(self) -> bool:
        return bool(self.killed)

    def end(self) -> str:
        return self.killed[0] if self.killed else self.how

    def cpu_seconds(self) -> float:
        self.cpu += self.cpu_rate
        return self.cpu

    def send(self, command: protocol.Command) -> None:
        protocol.encode(command)
        self.sent.append(command)
        self._heard.set()
        self.answer(self, command)

    async def received(self, count: int) -> None:
        """Wait until that many commands were sent."""
        while len(self.sent) < count:
            self._heard.clear()
            await self._heard.wait()

    def kill(self, reason: str) -> None:
        self.killed.append(reason)
        self.die(reason)

    def die(self, how: str) -> None:
        if not self.gone.is_set():
            self.how = how
            self.gone.set()
            self.lose()

    def lose(self) -> None:
        if not self.lost.is_set():
            self.lost.set()
            self.on_gone()

    @property
    def stopped(self) -> bool:
        return self.how == "stopped by the gateway"

    async def stop(self, grace: float = 2.0) -> bool:
        self.answer(self, protocol.Stop())
        if self.unkillable:
            self.lose()
        elif self.lingers:
            await self.gone.wait()
        else:
            self.die("stopped")
        return self.gone.is_set()


class FakeSpares:
    """Hands out the processes that it was given; owns tasks as the real one does, within the test's group."""

    def __init__(self, tasks: asyncio.TaskGroup, *processes: FakeProcess) -> None:
        self._tasks = tasks
        self._processes = list(processes)
        self.refills = 0
        self.environments: list[dict[str, str]] = []

    async def take(self) -> FakeProcess:
        if not self._processes:
            raise LoadFailed("no process left")
        return self._processes.pop(0)

    async def start(self, environment: Mapping[str, str] = {}) -> FakeProcess:
        self.environments.append(dict(environment))
        return await self.take()

    def refill(self) -> None:
        self.refills += 1

    def own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._tasks.create_task(work, name=name)
