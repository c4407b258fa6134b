"""
Standard output and error of the gateway, written by a thread of their own.

The one rule: a write to a protected stream never raises and never waits, whatever is behind it: a pipe that nobody
reads or whose reader is gone, a full disk, a closed descriptor. What does not fit the buffer is dropped and counted.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import json
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

MAX_BYTES = 2 * 2**20
"""Of text that waits for one descriptor."""
PAUSE = 0.25
"""Seconds between two tries of a descriptor that took nothing."""
EXIT_SECONDS = 1.0
"""How long the end of the process waits for what can still be written."""

_protected: list[LineSink] = []


class LineSink:
    """Lines for one descriptor: `put` them, a daemon thread writes them in their order."""

    def __init__(
        self, fd: int, max_bytes: int = MAX_BYTES, gap: Callable[[int], bytes] | None = None
    ) -> None:
        """`gap` makes the line that stands where lines were dropped, from their number."""
        self._fd = fd
        self._max_bytes = max_bytes
        self._gap = gap
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._missing = 0
        """Dropped since the last line that was taken."""
        self.dropped = 0
        # Reentrant: a finalizer that logs may run in the middle of `put`, in the same thread.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._closed = False
        """Nothing is written any more."""

    def put(self, line: bytes) -> None:
        """Queue it, or count it as dropped. Never raises, never waits for the descriptor."""
        with self._changed:
            gap = self._gap(self._missing) if self._missing and self._gap else b""
            if self._closed or self._waiting + len(gap) + len(line) > self._max_bytes:
                self._missing += 1
                self.dropped += 1
                return
            self._missing = 0
            self._waiting += len(gap) + len(line)
            self._lines.append(gap + line)
            self._start()
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, at most `seconds`. False when something is left."""
        limit = time.monotonic() + seconds
        with self._changed:
            while self._waiting and (left := limit - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._waiting

    def close(self) -> None:
        """Give up what waits, before the descriptor is closed: its number may be another file's the next moment."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(EXIT_SECONDS)

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: blocked in a write it must not keep the process alive.
            thread = threading.Thread(target=self._run, name=f"write-{self._fd}", daemon=True)
            try:
                thread.start()
            except (
                RuntimeError
            ):  # no more threads now, or the interpreter is ending: the next line tries again
                return
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closed:
                    self._changed.wait()
                if self._closed:
                    self._give_up()
                    return
                line = self._lines.popleft()
            self._write(line)
            with self._changed:
                self._waiting -= len(line)
                self._changed.notify_all()

    def _give_up(self) -> None:
        self.dropped += len(self._lines)
        self._lines.clear()
        self._waiting = 0
        self._changed.notify_all()

    def _write(self, line: bytes) -> None:
        """All of it, however long that takes; after a part of it, the rest."""
        while line and not self._closed:
            try:
                line = line[os.write(self._fd, line) :]
            except OSError as error:
                self._wait(error)
        self.dropped += bool(line)

    def _wait(self, error: OSError) -> None:
        if error.errno == errno.EBADF:  # the next file that is opened may get this number
            self._closed = True
            return
        if error.errno == errno.EAGAIN:  # whoever shares the descriptor made it non-blocking
            with contextlib.suppress(OSError, ValueError):
                select.select((), (self._fd,), (), PAUSE)
                return
        with self._changed:
            self._changed.wait_for(lambda: self._closed, PAUSE)


class ProtectedStream(io.TextIOBase):
    """A text stream in front of a sink. Whole lines are passed on; a part of one waits for its end or for `flush`."""

    def __init__(self, stream: TextIO, sink: LineSink) -> None:
        self._stream = stream
        self._sink = sink
        self._parts = threading.local()
        """Of each thread: `print` writes a text and the end of its line one after the other."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._parts.text = (getattr(self._parts, "text", "") + text).split("\n")
        if lines:
            self._put("\n".join(lines) + "\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        part, self._parts.text = getattr(self._parts, "text", ""), ""
        if part:
            self._put(part)

    def close(self) -> None:
        """Only passes on what waits: the descriptor is the process's."""
        self.flush()

    def _put(self, text: str) -> None:
        self._sink.put(text.encode(self.encoding, self.errors))


def protect_streams() -> None:
    """
    Replace sys.stdout and sys.stderr by protected streams, for the rest of the process; its end waits EXIT_SECONDS.

    A stream without a descriptor (a test's) stays as it is; one that was closed before the start becomes /dev/null.
    """
    for fd in (0, 1, 2):
        _occupy(fd)
    sys.stdout = _protect(sys.stdout)
    sys.stderr = _protect(sys.stderr, _gap_line)


def dropped() -> int:
    """Lines that standard error could not take since the start."""
    return sum(sink.dropped for sink in _protected)


def _occupy(fd: int) -> None:
    """A closed one would be given to the next file or socket, and what is printed would end up there."""
    try:
        os.fstat(fd)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def _protect(stream: TextIO | None, gap: Callable[[int], bytes] | None = None) -> TextIO:
    if stream is None:  # what Python says of a descriptor that was closed before the start
        return Path(os.devnull).open("w")
    if isinstance(stream, ProtectedStream):
        return stream
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        return stream
    sink = LineSink(fd, gap=gap)
    if gap is not None:
        _protected.append(sink)
    atexit.register(sink.flush, EXIT_SECONDS)
    protected: TextIO = ProtectedStream(stream, sink)  # type: ignore[assignment]
    return protected


def _gap_line(count: int) -> bytes:
    """JSON among lines for people, too: it is made where no formatter is at hand."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    facts = {"event": "log lines dropped", "level": "warning", "lines": count, "timestamp": now}
    return json.dumps(facts).encode() + b"\n"
