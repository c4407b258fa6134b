"""
Memory of this process that only this process holds: anonymous pages, as Linux counts them.

The one rule: pages of files (libraries, mapped weights) are not counted here; the kernel may drop them.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+\s+(.*)")
_PART = re.compile(r"-\d{5}(?=-of-\d{5}\.gguf$)")
_DONTNEED = 4


def private_bytes(root: Path = Path("/")) -> int:
    """Anonymous bytes in memory, after the heap's free pages went back to the kernel; 0 where it is not told."""
    _trim()
    try:
        found = _ANONYMOUS.search((root / "proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def let_go(path: Path) -> int:
    """
    Take a read-only mapped file, and its other parts, out of this process's memory; returns the bytes of its mappings.

    Nothing is lost: what is read again comes back from the page cache, a page at a time.
    """
    real, bytes_ = _PART.sub("", str(path.resolve())), 0
    for start, end, rights, name in _mappings():
        if _PART.sub("", name) == real and "w" not in rights:
            _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)
            bytes_ += end - start
    return bytes_


def _mappings() -> list[tuple[int, int, str, str]]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    found = (_MAPPING.fullmatch(line) for line in lines)
    return [(int(m[1], 16), int(m[2], 16), m[3], m[4]) for m in found if m]


def _trim() -> None:
    if hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
