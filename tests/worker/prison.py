"""Python in a process of its own: what a sandbox does to a process cannot be undone, so no test does it to itself."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import os, socket, sys, threading
from pathlib import Path
from router.worker import landlock, sandbox, seccomp

def tried(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return error.strerror
    return "done"
"""


def printed(script: str, *arguments: str) -> list[str]:
    """The lines that `script` prints; it must end in good order."""
    command = [sys.executable, "-c", PRELUDE + script, *arguments]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
