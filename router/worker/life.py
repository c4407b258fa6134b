"""
How a worker lives and ends: exit codes, the tie to the gateway's life, log lines.

Exit codes: 0 asked to stop, or the gateway is gone; 1 an unexpected error (its traceback is logged);
2 bad command line; 3 the model could not be loaded (LoadFailed was sent); 4 the gateway broke the protocol;
5 a layer of the sandbox was demanded and cannot be had.

The one rule: a worker never outlives its gateway, however either of them ends (G12).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable

ORDERLY = 0
UNEXPECTED = 1
LOAD_FAILED = 3
BROKEN_PROTOCOL = 4
NO_SANDBOX = 5

_PR_SET_PDEATHSIG = 1


def tie_to_parent(parent: int) -> None:
    """Have the kernel kill this process when the gateway `parent` dies; end at once if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The gateway may have died between the fork and the line above; then no signal will come.
    if os.getppid() != parent:
        os._exit(ORDERLY)


def watch_signals(stop: Callable[[], None]) -> None:
    """SIGTERM stops in good order. SIGINT is the gateway's: Ctrl-C in a terminal must not kill answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop())


def log(level: str, event: str, **facts: object) -> None:
    """One JSON line on stderr, never an error; the gateway adds the instance and its own clock."""
    with contextlib.suppress(OSError):
        sys.stderr.write(json.dumps({"level": level, "event": event, **facts}, default=str) + "\n")
        sys.stderr.flush()


def log_error(event: str, error: BaseException) -> None:
    """An unexpected error, with its traceback."""
    lines = traceback.format_exception(error)
    log("error", event, error=f"{type(error).__name__}: {error}", traceback="".join(lines)[-4000:])
