"""
Sizes, shares and durations as people write them.

The one rule: a unit is always written, and always the same one; a message that says what to write was tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

_UNITS = {"B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z%]+)")
_DURATION = "expected a duration such as 90s, 10m or 2h"
_BARE = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_LOOSE = re.compile(rf"({_BARE.pattern}) ?([kmgtKMGT]?)(?:i?[bB])?")
LEAST_BARE = 2**20
"""Bytes. Whoever writes a smaller number without a unit means something else."""

MAX_SIZE = 2**50
MAX_SECONDS = 365 * 86400.0

SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)? ?([KMGT]i?)?B$"
SHARE_PATTERN = r"^[0-9]+(\.[0-9]+)? ?%$"
DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what a device has, above 0 and at most 1."""

    of_total: float


def budget(value: object) -> int | Share:
    """Bytes or a share: 8589934592, "9GiB", "800MB", "80%". Raises ValueError with the reason."""
    number, unit = _split(value)
    if unit == "%":
        if not 0 < number <= 100:
            raise ValueError("expected a share above 0% and at most 100%")
        return Share(number / 100)
    if isinstance(value, int) or unit in _UNITS:
        return _bytes(value, budget)
    raise ValueError(
        f"expected a size such as 9GiB or 800MB, or a share such as 80%{hint(budget, *_meant(value))}"
    )


def size(value: object) -> int:
    """Bytes: 8589934592, "9GiB", "800MB". Raises ValueError with the reason."""
    return _bytes(value, size)


def hint(read: Callable[[str], object], *candidates: str) -> str:
    """What to write instead, for the end of a message: only what `read` takes, or nothing."""
    taken = [text for text in candidates if _takes(read, text)]
    return f" (write {' or '.join(taken)})" if taken else ""


def _bytes(value: object, read: Callable[[str], object]) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 < value < LEAST_BARE:
            raise ValueError(_too_few(value, read))
        return _bounded_size(value)
    number, unit = _split(value)
    if unit not in _UNITS:
        raise ValueError(
            f"expected a size such as 9GiB or 800MB, or a number of bytes{hint(read, *_meant(value))}"
        )
    return _bounded_size(int(number * _UNITS[unit]))


def _too_few(value: int, read: Callable[[str], object]) -> str:
    """A number without a unit is bytes, and so few of them were never meant."""
    meant = [text for text in _meant(value) if _takes(read, text)]
    return f"{value} bytes? write {' or '.join(meant) or f'{value}B'}"


def _meant(value: object) -> tuple[str, ...]:
    """Texts that somebody may have had in mind who wrote a number alone, or a unit in another spelling."""
    if isinstance(value, str) and (match := _LOOSE.fullmatch(value)):
        prefix = match[2].upper()
        return (f"{match[1]}{prefix}iB", f"{match[1]}{prefix}B") if prefix else _meant(_number(match[1]))
    if not _is_number(value):
        return ()
    number = f"{value:.12g}"
    if isinstance(value, float) and value <= 1:
        return (f"{value * 100:.12g}%",)
    return (f"{number}%", f"{number}GiB") if value <= 100 else (f"{number}MiB",)


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _takes(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def _bounded_size(size_in_bytes: int) -> int:
    if not 0 < size_in_bytes <= MAX_SIZE:
        raise ValueError("expected a size above 0 and at most 1024TiB")
    return size_in_bytes


def duration(value: object) -> float:
    """Seconds: "90s", "10m", "2h", "500ms", "1d". Raises ValueError with the reason."""
    return _seconds(value, duration)


def wait(value: object) -> float:
    """A duration that is long enough to be waited for: 100 ms at least. Raises ValueError with the reason."""
    if (seconds := _seconds(value, wait)) >= 0.1:
        return seconds
    raise ValueError("expected at least 100ms")


def ttl(value: object) -> float | None:
    """A duration, or None for "never". Raises ValueError with the reason."""
    if value == "never":
        return None
    if str(value).startswith("-"):
        raise ValueError(f"{_DURATION} (write never: it stays until its memory is needed)")
    if _is_number(value) and value == 0:
        raise ValueError(f"{_DURATION} (write 0s: it is unloaded after each request)")
    try:
        return _seconds(value, ttl)
    except ValueError as error:
        raise ValueError(f"{error}; or never") from error


def _seconds(value: object, read: Callable[[str], object]) -> float:
    number, unit = _split(value)
    if unit not in _SECONDS:
        text = f"{value:.12g}" if _is_number(value) else value
        meant = (f"{text}s",) if isinstance(text, str) and _BARE.fullmatch(text) else ()
        raise ValueError(f"{_DURATION}{hint(read, *meant)}")
    seconds = number * _SECONDS[unit]
    if seconds > MAX_SECONDS:
        raise ValueError("expected at most 365d")
    return seconds


def _split(value: object) -> tuple[float, str]:
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)):
        return float(match[1]), match[2]
    return 0.0, ""
