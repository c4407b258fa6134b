"""
Memory that large bodies took, given back to the system once they are done.

The one rule: only in a quiet moment. Errors and the frames that they came through hold each other and the body, until
the collector looks at old objects, which it seldom does; and what is freed stays with the C library until it is asked.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

LARGE = 2**20
"""Bytes of a body that is worth it, and of those under way beside which the moment is quiet."""
QUIET_SECONDS = 0.5


class MemoryRelease:
    """`held`: bytes of the bodies that wait and run."""

    def __init__(self, held: Callable[[], int]) -> None:
        self._held = held
        self._due = False

    def ended(self, size: int) -> None:
        """A request with a body of `size` bytes is done."""
        if size >= LARGE and not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(QUIET_SECONDS, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._held() >= LARGE:
            loop.call_later(QUIET_SECONDS, self._look)
            return
        self._due = False
        gc.collect()  # a few ms: what there was at the start is frozen, and large bodies are gone
        loop.run_in_executor(None, trim)


def trim() -> None:
    """Up to 0.1 s for hundreds of megabytes, so beside the loop. Only glibc has, and needs, it."""
    found = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if found is not None:
        found(0)
