"""What a kernel or a machine may lack: the only tests of this house that may be skipped, each saying why."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from router.worker import landlock, seccomp

_HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}

needs_landlock = pytest.mark.skipif(
    not landlock.version(),
    reason="no Landlock in this kernel, or it is switched off: files stay open to workers",
)
needs_landlock_4 = pytest.mark.skipif(landlock.version() < 4, reason="TCP is kept in from Landlock 4 on")
needs_landlock_6 = pytest.mark.skipif(landlock.version() < 6, reason="signals are kept in from Landlock 6 on")
needs_filter = pytest.mark.skipif(
    platform.machine() not in seccomp.MACHINES, reason=f"no seccomp filter for {platform.machine()}"
)
needs_an_ordinary_user = pytest.mark.skipif(os.getuid() == 0, reason="root may confine itself in any case")


def header(machine: str) -> str:
    """The kernel's own table of system calls."""
    path = Path(_HEADERS[machine])
    if not path.is_file():
        pytest.skip(f"no kernel headers for {machine} here: {path}")
    return path.read_text()
