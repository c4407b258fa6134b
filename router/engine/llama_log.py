"""
What llama.cpp says: warnings and errors go to stderr, a line each; the newest are kept for error messages.

The one rule: every sibling gets llama_cpp from here, so that the callback is ours before anything is said.
"""

from __future__ import annotations

import os
import sys
from collections import deque

# An abort under ggml runs gdb on its own process if there is one, and hangs there.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# Threads that spin at OpenMP's barriers wait for each other's time slices as soon as anything else runs on the
# cores, a second model say: measured on two busy cores, 8 streams fell from 60 tokens/s to 4.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import llama_cpp as llama

__all__ = ["last_words", "llama", "recent"]

_WARN, _ERROR, _CONTINUED = 3, 4, 5  # ggml_log_level; the bindings' own table is out of date

recent: deque[str] = deque(maxlen=4)
"""The newest warnings and errors, oldest first, without line ends."""


class _Lines:
    """Joins pieces to lines: some come with their end, some without, some continue the last one."""

    def __init__(self) -> None:
        self._level = 0
        self._line = ""

    def take(self, level: int, text: bytes) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level not in (_WARN, _ERROR):
            return
        self._line += text.decode("utf-8", "replace")
        *whole, self._line = self._line.split("\n")
        for line in filter(str.strip, whole):
            recent.append(line)
            sys.stderr.write(f"llama.cpp: {line}\n")


_lines = _Lines()


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _callback(level: int, text: bytes, _user_data: object) -> None:
    _lines.take(level, text)


llama.llama_log_set(_callback, None)
llama.llama_backend_init()


def last_words() -> str:
    """The newest complaint, for the end of an error message; "" if there was none."""
    return f": {recent[-1]}" if recent else "."
