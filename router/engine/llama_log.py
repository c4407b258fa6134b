"""
What llama.cpp says: warnings and errors go to stderr, a line each; errors are kept for error messages.

The one rule: every sibling gets llama_cpp from here, so that the callback is ours before anything is said.
"""

from __future__ import annotations

import os
import re
import sys

# An abort under ggml runs gdb on its own process if there is one, and hangs there.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# How long OpenMP's threads spin at a barrier before they sleep. The library's default (for ever, nearly) starves
# whoever shares the cores, a second model say: 8 streams beside 8 fell from 100 tokens/s to 5. Not to spin at all
# costs a wake-up an operation: one stream falls from 130 tokens/s to 45. 200 rounds gave 130 alone and 101 beside
# another (SmolLM2-135M Q8_0, two cores). Who sets either variable has decided.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "200")

import llama_cpp as llama

__all__ = ["complaint", "forget_complaints", "llama", "may_pass", "ran_out", "talk"]

_INFO, _WARN, _ERROR, _CONTINUED = 2, 3, 4, 5  # ggml_log_level; the bindings' own table is out of date

_MOST_ERRORS = 16
_SPEAKER = re.compile(r"^(\w+: )+(error loading model: )?")

_RAN_OUT = re.compile(
    r"out of memory|(failed|unable) to (allocate|reserve)|failed to alloc|bad_alloc|cannot allocate memory",
    re.IGNORECASE,
)

# Other causes that lie in the machine at this moment and not in the file or the options.
_PASSES = re.compile(
    r"failed to initialize \S+ backend|\bcuda ?(error|malloc)|failed to (open|read|seek|mmap)|(read|open|mmap|seek) error"
    r"|mmap failed|input/output error|too many open files|temporarily unavailable|no such file|permission denied",
    re.IGNORECASE,
)

_errors: list[str] = []


class _Lines:
    """Joins pieces to lines: some come with their end, some without, some continue the last one."""

    def __init__(self) -> None:
        self.told: tuple[int, ...] = (_WARN, _ERROR)
        self._level = 0
        self._line = ""

    def take(self, level: int, text: bytes) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level not in self.told:
            return
        self._line += text.decode("utf-8", "replace")
        *whole, self._line = self._line.split("\n")
        for line in filter(str.strip, whole):
            if self._level == _ERROR and len(_errors) < _MOST_ERRORS:
                _errors.append(line)
            sys.stderr.write(f"llama.cpp: {line}\n")


_lines = _Lines()


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _callback(level: int, text: bytes, _user_data: object) -> None:
    _lines.take(level, text)


llama.llama_log_set(_callback, None)
llama.llama_backend_init()


def talk() -> None:
    """From now on what llama.cpp reports of its progress goes to stderr too."""
    _lines.told = (_INFO, _WARN, _ERROR)


def forget_complaints() -> None:
    """Before an attempt whose failure is to be explained."""
    _errors.clear()


def ran_out() -> bool:
    """True if memory was what lacked since `forget_complaints`: llama.cpp says so in words only."""
    return any(_RAN_OUT.search(line) for line in _errors)


def may_pass() -> bool:
    """True if nothing said since `forget_complaints` lays the failure on the file or the options."""
    return not _errors or ran_out() or any(_PASSES.search(line) for line in _errors)


def complaint() -> str:
    """
    How an error message ends: ": " and the first error since `forget_complaints`, or "." if there was none.

    The first one names the cause; those after it say that therefore something else failed too.
    """
    return f": {_SPEAKER.sub('', _errors[0])}" if _errors else "."
