"""
What memory there is: the GPUs that NVML shows, else the host's own.

The one rule: detection never fails. A driver that is missing or broken is a machine without a GPU; a limit
that cannot be read is no limit. The driver itself is asked in `nvml`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil

from router.sizing.nvml import Board, Driver

__all__ = ["Board", "Device", "Machine", "detect", "gpus", "host"]


@dataclass(frozen=True, slots=True)
class Device:
    """Where models live. `total` and `free` are bytes; `name` is "gpu0", "gpu1", ... or "host"."""

    name: str
    kind: Literal["cuda", "cpu"]
    total: int
    free: int
    uuid: str = ""
    """The driver's name of a GPU."""
    linked: bool = False
    """A GPU with an NVLink that is up."""


class Machine(Protocol):
    """Bytes of the host's memory, no container considered (psutil's `virtual_memory`)."""

    @property
    def total(self) -> int: ...
    @property
    def available(self) -> int: ...


def detect(
    boards: Callable[[], tuple[Board, ...]] | None = None,
    machine: Callable[[], Machine] = psutil.virtual_memory,
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> tuple[Device, ...]:
    """
    The GPUs that CUDA will see, numbered as it numbers them, and behind them the host.

    The arguments are for tests: the driver, the host's memory, the environment and where /proc and /sys lie.
    """
    return (*gpus((boards or Driver().boards)(), environment), host(machine(), root))


def gpus(boards: tuple[Board, ...], environment: Mapping[str, str]) -> tuple[Device, ...]:
    """The boards that CUDA_VISIBLE_DEVICES leaves, in its order."""
    visible = _visible(boards, environment.get("CUDA_VISIBLE_DEVICES"))
    return tuple(
        Device(f"gpu{number}", "cuda", board.total, board.free, board.uuid, board.linked)
        for number, board in enumerate(visible)
    )


def host(machine: Machine, root: Path = Path("/")) -> Device:
    """Host memory, or what the container that we are in may use of it."""
    total, free = machine.total, machine.available
    for limit, used in _cgroup_limits(root):
        total = min(total, limit)
        free = min(free, max(limit - used, 0))
    return Device("host", "cpu", total, free)


def _visible(boards: tuple[Board, ...], variable: str | None) -> Iterator[Board]:
    if variable is None:
        yield from boards
        return
    for word in variable.split(","):
        chosen = _choose(boards, word.strip())
        if chosen is None:
            # As CUDA does: what comes after a name that means nothing is not seen.
            return
        yield chosen


def _choose(boards: tuple[Board, ...], word: str) -> Board | None:
    if word.isdecimal():
        return boards[int(word)] if int(word) < len(boards) else None
    return next((board for board in boards if word and board.uuid.startswith(word)), None)


# Containers -----------------------------------------------------------------------------------------------


def _cgroup_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of every group that we are in, ours and those above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for group in _upwards(base, path):
            limit = _number(_text(group / names[0]))
            if limit is not None:
                yield limit, _used(group, names[1], names[2])


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """The group's directory and those above it. Inside a container `path` may exist only outside it."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:count])


def _used(group: Path, usage: str, inactive: str) -> int:
    """Bytes that are really taken: file pages that can be dropped at once are not."""
    droppable = 0
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == inactive:
            droppable = _number(value) or 0
    return max((_number(_text(group / usage)) or 0) - droppable, 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None
