"""
Landlock: which files a thread, and every thread that it starts, may open from now on.

The one rule: what is not named is closed; nothing here knows what a worker needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

# linux/landlock.h; the numbers are the same on every processor.
_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_ASK_VERSION, _BENEATH = 1, 1
_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_FIRST_VERSION = (1 << 13) - 1
_TCP = 3
"""Binding and connecting."""
_SCOPES = 3
"""No signal to, and no abstract socket of, a process outside."""

READ = _READ | _READ_DIR
WRITE = READ | (_FIRST_VERSION & ~_EXECUTE) | _TRUNCATE | _IOCTL


def version() -> int:
    """Of the kernel's Landlock; 0 = it has none, or it is switched off."""
    known: int = _libc().syscall(_CREATE, None, 0, _ASK_VERSION)
    return max(0, known)


def enter(readable: Iterable[str | Path], writable: Iterable[str | Path] = ()) -> None:
    """
    Confine the calling thread to these files, and to what lies beneath these folders. For good.

    What does not exist is passed over. no_new_privs must be set before. Raises OSError.
    """
    known = version()
    if not known:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock")
    handled = _handled(known)
    ruleset = _call(_CREATE, *_described(known, handled), 0)
    try:
        for paths, rights in ((readable, READ), (writable, WRITE)):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _handled(known: int) -> int:
    rights = _FIRST_VERSION
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL)):
        rights |= right if known >= since else 0
    return rights


def _described(known: int, handled: int) -> tuple[bytes, int]:
    attributes = struct.pack("=QQQ", handled, _TCP, _SCOPES)
    length = 8 if known < 4 else 16 if known < 6 else 24
    return attributes[:length], length


def _allow(ruleset: int, path: str | Path, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, ruleset, _BENEATH, struct.pack("=Qi", rights, file), 0)
    finally:
        os.close(file)


def _call(number: int, *arguments: object) -> int:
    answer: int = _libc().syscall(number, *arguments)
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"landlock: {os.strerror(error)}")
    return answer


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
