"""
A worker whose engine was taken over: loading or preparing, it does what the first argument says.

    open:PATH | connect:PORT | ptrace | exec | kill   by the thread that loads
    prepare,open:PATH ...                             by the thread that reads requests
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

from router.domain.models import EngineOptions
from router.engine import echo
from router.engine.engine import Engine
from router.worker import __main__ as worker
from router.worker import backends


def attempt(what: str) -> None:
    """Raises OSError when it is not allowed."""
    kind, _, argument = what.partition(":")
    match kind:
        case "open":
            Path(argument).read_bytes()
        case "connect":
            socket.create_connection(("127.0.0.1", int(argument))).close()
        case "ptrace":
            _ptrace(os.getppid())
        case "exec":
            os.execv("/bin/true", ["true"])
        case "kill":
            os.kill(os.getppid(), 0)


def _ptrace(pid: int) -> None:
    seize = 0x4206  # unlike attaching it does not stop whom it should not have reached
    if ctypes.CDLL(None, use_errno=True).ptrace(seize, pid, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


class Prisoner(echo.EchoBackend):
    plan = ""

    def tokenize(self, text: str, special: bool) -> list[int]:
        attempt(self.plan)
        return super().tokenize(text, special)


def main() -> None:
    when, _, what = sys.argv.pop(1).rpartition(",")

    def load(path: str, options: EngineOptions, progress: backends.Progress) -> Engine:
        if when != "prepare":
            attempt(what)
        backend = Prisoner(echo.script(path), options)
        backend.plan = what if when == "prepare" else ""
        return Engine(backend)

    kind = backends.Kind("echo", "prisoner", False, load, echo.dry_run)
    backends.backend = lambda name: kind
    worker.main()


if __name__ == "__main__":
    main()
