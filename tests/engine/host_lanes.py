"""Lanes whose device is this process's own memory: an upload without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from router.engine.batch import EngineError


class HostLane:
    """Like a GPU's it copies late: what was sent arrives when its buffer is settled."""

    def __init__(self, size: int, broken: bool = False) -> None:
        self._memory = [bytearray(size), bytearray(size)]
        self._sent: list[tuple[int, int] | None] = [None, None]
        self._broken = broken
        self.buffers = [memoryview(memory) for memory in self._memory]
        self.closed = False

    def send(self, buffer: int, address: int, size: int) -> None:
        if self._broken:
            raise EngineError("the device is gone")
        self._sent[buffer] = (address, size)

    def settle(self, buffer: int) -> None:
        sent, self._sent[buffer] = self._sent[buffer], None
        if sent is not None:
            ctypes.memmove(sent[0], bytes(self._memory[buffer][: sent[1]]), sent[1])

    def close(self) -> None:
        self.closed = True


class Device:
    """Opens lanes and remembers them."""

    def __init__(self, broken: bool = False, room: int = 100) -> None:
        """`room`: how many lanes can be opened."""
        self.lanes: list[HostLane] = []
        self._broken = broken
        self._room = room

    def opener(self) -> Callable[[int], HostLane]:
        def open_lane(size: int) -> HostLane:
            if len(self.lanes) >= self._room:
                raise EngineError("no memory can be locked")
            self.lanes.append(HostLane(size, self._broken))
            return self.lanes[-1]

        return open_lane
