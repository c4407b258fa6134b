"""
Bytes by device, as in {"gpu0": 8_000, "host": 500}, and the little arithmetic that memory needs.

The one rule: a device that is not named holds nothing; one that has no budget is not limited.
"""

from __future__ import annotations

from collections.abc import Mapping

Bytes = Mapping[str, int]


def plus(*vectors: Bytes) -> dict[str, int]:
    """Device by device."""
    added: dict[str, int] = {}
    for vector in vectors:
        for device, size in vector.items():
            added[device] = added.get(device, 0) + size
    return added


def left(room: Bytes, *taken: Bytes) -> dict[str, int]:
    """What is left of `room` on each of its devices; negative where more is taken than there is."""
    rest = dict(room)
    for vector in taken:
        for device, size in vector.items():
            if device in rest:
                rest[device] -= size
    return rest


def lacking(need: Bytes, room: Bytes) -> dict[str, int]:
    """How much of `need` is not in `room`: only devices that lack something. Empty = it fits."""
    return {d: size - room[d] for d, size in need.items() if d in room and size > max(room[d], 0)}


def fits(need: Bytes, room: Bytes) -> bool:
    return not lacking(need, room)


def told(vector: Bytes) -> str:
    """For a sentence: "8000 bytes of gpu0 and 500 of host"."""
    parts = [f"{size} of {device}" for device, size in sorted(vector.items())]
    first, *rest = parts or ["nothing"]
    return " and ".join([first.replace(" of ", " bytes of ", 1), *rest])
