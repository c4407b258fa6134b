"""
What a launcher tells of a worker between its start and its end.

The one rule: values; the gateway side (`runtime`) says them, `residency` hears them.
"""

from __future__ import annotations

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """`fraction` of the weights is read, 0 to 1."""

    fraction: float


class Freed(msgspec.Struct, frozen=True):
    """It gave back context and model and the device confirms: `remaining` bytes by device are still held."""

    remaining: dict[str, int]


class Stuck(msgspec.Struct, frozen=True):
    """It was killed and is still not reaped: its bytes may never come back."""


News = Progress | Freed | Stuck
