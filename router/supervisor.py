"""
Tasks that may not end unseen: an error in one is logged, and either ends it alone or starts it again.

The one rule: what runs here never raises into the task group around it, where an error would cancel its siblings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from router.telemetry import logger

log = logger("supervisor")

PAUSE = 1.0
LONGEST_PAUSE = 60.0


async def contained(work: Coroutine[Any, Any, object], name: str) -> None:
    """Run it once; an error ends only it."""
    try:
        await work
    except Exception:
        log.exception("a task broke", task=name)


async def restarted(
    work: Callable[[], Coroutine[Any, Any, object]],
    name: str,
    pause: float = PAUSE,
    longest: float = LONGEST_PAUSE,
) -> None:
    """
    Run it until it returns or is cancelled. After an error it begins anew, `pause` seconds later.

    The pause doubles up to `longest`; whoever ran for so long begins with the first one again.
    """
    clock = asyncio.get_running_loop().time
    delay = pause
    while True:
        began = clock()
        try:
            await work()
            return
        except Exception:
            delay = pause if clock() - began > longest else delay
            log.exception("a task broke and starts again", task=name, seconds=delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, longest)
