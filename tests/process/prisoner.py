"""
A worker whose engine was taken over: loading or preparing, it does what the first argument says.

    open:PATH | connect:PORT | unix:PATH | chmod:PATH | chown:PATH | times:PATH | attribute:PATH   by the thread that loads
    ptrace | exec | kill | owner | limits | priority | affinity | fork                              likewise
    memory | shared | file | segment                                                                likewise
    prepare,open:PATH ...   by the thread that reads requests
    early,open:PATH ...     by a thread that was there before the sandbox
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from router.domain.models import EngineOptions
from router.engine import echo
from router.engine.engine import Engine
from router.worker import __main__ as worker
from router.worker import backends


def attempt(what: str) -> None:
    """Raises OSError or MemoryError when it is not allowed; allowed, it changes nothing outside."""
    kind, _, argument = what.partition(":")
    gateway = os.getppid()
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: Path(argument).read_bytes(),
        "connect": lambda: socket.create_connection(("127.0.0.1", int(argument))).close(),
        "unix": lambda: _connect(argument),
        "chmod": lambda: Path(argument).chmod(0o600),
        "chown": lambda: os.chown(argument, os.getuid(), os.getgid()),
        "times": lambda: os.utime(argument, (1, 1)),
        "attribute": lambda: os.setxattr(argument, "user.x", b"x"),
        "ptrace": lambda: _ptrace(gateway),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "kill": lambda: os.kill(gateway, 0),
        "limits": lambda: resource.prlimit(gateway, resource.RLIMIT_CPU),
        "priority": lambda: os.setpriority(
            os.PRIO_PROCESS, gateway, os.getpriority(os.PRIO_PROCESS, gateway)
        ),
        "affinity": lambda: os.sched_setaffinity(gateway, os.sched_getaffinity(gateway)),
        "fork": _fork,
        "memory": lambda: bytearray(3 * 2**30),
        "shared": lambda: mmap.mmap(-1, 3 * 2**30),
        "file": lambda: os.close(os.memfd_create("m")),
        "segment": _segment,
        "owner": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, gateway),
    }
    if kind:
        attempts[kind]()


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def _segment() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if (made := libc.shmget(0, 4096, 0o1600)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    libc.shmctl(made, 0, None)  # IPC_RMID


def _fork() -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _ptrace(pid: int) -> None:
    seize = 0x4206  # unlike attaching it does not stop whom it should not have reached
    if ctypes.CDLL(None, use_errno=True).ptrace(seize, pid, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


class _Early:
    """A thread from before the sandbox that acts once it is told to."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._told.wait()
        try:
            attempt(self._what)
        except OSError as error:
            self._error = error

    def go(self) -> None:
        self._told.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


class Prisoner(echo.EchoBackend):
    plan = ""

    def tokenize(self, text: str, special: bool) -> list[int]:
        attempt(self.plan)
        return super().tokenize(text, special)


def main() -> None:
    when, _, what = sys.argv.pop(1).rpartition(",")
    early = _Early(what) if when == "early" else None

    def load(path: str, options: EngineOptions, progress: backends.Progress) -> Engine:
        if early is not None:
            early.go()
        elif when != "prepare":
            attempt(what)
        backend = Prisoner(echo.script(path), options)
        engine = Engine(backend)  # asks it for the tokens of a few texts by itself
        backend.plan = what if when == "prepare" else ""
        return engine

    kind = backends.Kind("echo", "prisoner", False, load, echo.dry_run)
    backends.backend = lambda name: kind
    worker.main()


if __name__ == "__main__":
    main()
