"""
Sizes, shares and durations as people write them.

The one rule: a unit is always written, and always the same one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"B": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z%]+)")

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
    if unit != "%":
        return size(value)
    if not 0 < number <= 100:
        raise ValueError("expected a share above 0% and at most 100%")
    return Share(number / 100)


def size(value: object) -> int:
    """Bytes: 8589934592, "9GiB", "800MB". Raises ValueError with the reason."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded_size(value)
    number, unit = _split(value)
    if unit not in _UNITS:
        raise ValueError("expected a size such as 9GiB, 800MB, 80% of the device, or a number of bytes")
    return _bounded_size(int(number * _UNITS[unit]))


def _bounded_size(size_in_bytes: int) -> int:
    if not 0 < size_in_bytes <= MAX_SIZE:
        raise ValueError("expected a size above 0 and at most 1024TiB")
    return size_in_bytes


def duration(value: object) -> float:
    """Seconds: "90s", "10m", "2h", "500ms", "1d". Raises ValueError with the reason."""
    number, unit = _split(value)
    if unit not in _SECONDS:
        bare = isinstance(value, int | float) and not isinstance(value, bool)
        hint = f" (write {value}s for seconds)" if bare else ""
        raise ValueError(f"expected a duration such as 90s, 10m or 2h{hint}")
    seconds = number * _SECONDS[unit]
    if seconds > MAX_SECONDS:
        raise ValueError("expected at most 365d")
    return seconds


def _split(value: object) -> tuple[float, str]:
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)):
        return float(match[1]), match[2]
    return 0.0, ""
