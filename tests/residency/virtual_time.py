"""An event loop whose clock jumps to the next timer: minutes of patience in microseconds of test."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable


class VirtualLoop(asyncio.SelectorEventLoop):
    """Nothing here waits for real: when nothing is ready, it is as late as the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 1000.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            timers = [t.when() for t in self._scheduled if not t.cancelled()]  # type: ignore[attr-defined]
            self._virtual = max(self._virtual, min(timers, default=0.0))
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(scene: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Decorate an async test: it runs to its end in a VirtualLoop, and leaves no task behind."""

    @functools.wraps(scene)
    def test(*args: object, **named: object) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(_clean(scene(*args, **named)))

    return test


async def _clean(scene: Awaitable[None]) -> None:
    broken: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(str(context)))
    await scene
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left behind"
    assert not broken, broken
