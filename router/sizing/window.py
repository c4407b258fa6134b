"""
A file read forward through a small buffer, never past a bound that was checked first.

The one rule: no mapping. A file that is cut while it is mapped kills the reader with SIGBUS; a short read is
an error like any other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, NoReturn

CHUNK = 256 * 1024
_LENGTH = struct.Struct("<Q")


class Window:
    """Reads one open file from its start. `fail` gets a reason and raises; every shortage goes through it."""

    def __init__(self, descriptor: int, size: int, fail: Callable[[str], NoReturn]) -> None:
        self.size = size
        self._descriptor = descriptor
        self._fail = fail
        self._buffer = b""
        self._start = 0
        """Where in the file the buffer begins."""
        self._at = 0
        """Where in the buffer the next byte to read is."""

    @property
    def position(self) -> int:
        return self._start + self._at

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes. The caller has bounded `count`."""
        self._hold(count, what)
        self._at += count
        return self._buffer[self._at - count : self._at]

    def unpack(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        self._hold(layout.size, what)
        self._at += layout.size
        return layout.unpack_from(self._buffer, self._at - layout.size)

    def skip(self, count: int, what: str) -> None:
        """Pass over `count` bytes without reading them."""
        if count > self.remaining:
            self._short(count, what)
        self._at += count

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over `count` strings (u64 length, bytes). The one loop over a vocabulary: kept bare."""
        left = count
        while left:
            self._hold(_LENGTH.size, what)
            buffer, at, unpack = self._buffer, self._at, _LENGTH.unpack_from
            limit = len(buffer) - _LENGTH.size
            for _ in range(left):
                if at > limit:
                    break
                (length,) = unpack(buffer, at)
                at += 8 + length
                left -= 1
            if self._start + at > self.size:
                self._short(at - self._at, what)
            self._at = at

    def _hold(self, count: int, what: str) -> None:
        """Make the next `count` bytes stand in the buffer."""
        if len(self._buffer) - self._at >= count:
            return
        if count > self.remaining:
            self._short(count, what)
        self._start, self._at = self.position, 0
        self._buffer = self._read(max(CHUNK, count))
        if len(self._buffer) < count:
            self.size = self._start + len(self._buffer)
            self._short(count, what)

    def _read(self, count: int) -> bytes:
        try:
            return os.pread(self._descriptor, min(count, self.size - self._start), self._start)
        except OSError as error:
            self._fail(f"it cannot be read: {error.strerror}")

    def shortage(self, count: int, what: str) -> str:
        """The reason when `count` more bytes are needed than there are."""
        return f"truncated: {what} needs a file of {self.position + count} bytes, found {self.size}"

    def _short(self, count: int, what: str) -> NoReturn:
        self._fail(self.shortage(count, what))
