"""
Pieces of files -> memory of a device, by several lanes at once: how a model of gigabytes is there in a moment.

The one rule: what is copied where is decided by whoever calls `add`; here is only speed. No llama.cpp, no CUDA.
"""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from router.engine.batch import EngineError

LANES = 8
"""Measured on an H100: 1, 2, 4 and 8 lanes read 6, 12, 19 and 27 GiB/s out of the page cache."""
PIECE = 4 * 2**20
"""Bytes: each lane has two buffers of this size, one being read into while the other is on its way."""

_BEAT = 0.05


class Lane(Protocol):
    """One thread's own way to the device; the GPU hides behind it. Closed by the thread that opened it."""

    @property
    def buffers(self) -> Sequence[memoryview]: ...

    def send(self, buffer: int, address: int, size: int) -> None:
        """Start to copy the first `size` bytes of a buffer to the device's `address`. Raises EngineError."""
        ...

    def settle(self, buffer: int) -> None:
        """Returns when what was sent from this buffer has arrived. Raises EngineError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Piece:
    descriptor: int
    offset: int
    address: int
    size: int


class Upload:
    """`open_lane(piece)` makes the lane of one thread. The lanes are opened by the first `add`."""

    def __init__(self, open_lane: Callable[[int], Lane], lanes: int = LANES, piece: int = PIECE) -> None:
        self._open_lane = open_lane
        self._lanes = lanes
        self._piece = piece
        self._pieces: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._opened: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None
        self._running: list[Future[None]] = []
        self._added = 0
        self._arrived = [0] * lanes

    @property
    def used(self) -> bool:
        return self._pool is not None

    def add(self, descriptor: int, offset: int, address: int, size: int) -> None:
        """
        Copy `size` bytes of an open file to the device; it goes on after the return, until `finish`.

        Raises EngineError, and has taken nothing, when the lanes cannot be opened.
        """
        if self._pool is None:
            self._start()
        self._added += size
        for start in range(0, size, self._piece):
            length = min(self._piece, size - start)
            self._pieces.put(_Piece(descriptor, offset + start, address + start, length))

    def _start(self) -> None:
        """All lanes or none: whoever is told that there are none can still copy in another way."""
        pool = ThreadPoolExecutor(self._lanes, thread_name_prefix="upload")
        try:
            running = [pool.submit(self._run, lane) for lane in range(self._lanes)]
            failures = [error for error in [self._opened.get() for _ in running] if error is not None]
            if failures:
                raise failures[0]
        except BaseException as error:
            self._end_lanes()
            pool.shutdown()
            self._forget_pieces()
            raise EngineError(f"No upload: {error}") from error
        self._pool, self._running = pool, running

    def _end_lanes(self) -> None:
        for _ in range(self._lanes):
            self._pieces.put(None)

    def _forget_pieces(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()

    def finish(self, progress: Callable[[float], None]) -> None:
        """Returns when all is on the device; `progress` gets fractions from 0 to 1. Raises EngineError."""
        if self._pool is None:
            return
        self._end_lanes()
        while wait(self._running, timeout=_BEAT).not_done:
            progress(sum(self._arrived) / self._added)
        self._pool.shutdown()
        for lane in self._running:
            lane.result()
        progress(1.0)

    def abandon(self) -> None:
        """Returns when nothing is copied any more, whether all was or not; after `finish` it does nothing."""
        if self._pool is not None:
            self._forget_pieces()
            self._end_lanes()
            self._pool.shutdown()

    def _run(self, number: int) -> None:
        try:
            lane = self._open_lane(self._piece)
        except BaseException as error:
            self._opened.put(error)
            raise
        try:
            self._opened.put(None)
            turn = 0
            while (piece := self._pieces.get()) is not None:
                lane.settle(turn)
                read(piece.descriptor, lane.buffers[turn][: piece.size], piece.offset)
                lane.send(turn, piece.address, piece.size)
                self._arrived[number] += piece.size
                turn = (turn + 1) % len(lane.buffers)
            for buffer in range(len(lane.buffers)):
                lane.settle(buffer)
        finally:
            lane.close()


def read(descriptor: int, target: memoryview, offset: int) -> None:
    """Fill `target` from the file. Raises EngineError when the file ends before (it was cut) or cannot be read."""
    while target:
        try:
            count = os.preadv(descriptor, [target], offset)
        except OSError as error:
            raise EngineError(f"The model file could not be read: {error}") from error
        if count == 0:
            raise EngineError("The model file ended before its time: it was cut while it was loaded.")
        target = target[count:]
        offset += count
