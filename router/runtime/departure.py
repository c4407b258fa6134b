"""
A worker on its way out: what it gives back before its process ends.

Context and model are freed within milliseconds of a Stop, the process is reaped hundreds of milliseconds later;
the next load need not wait for that. The host's memory is back when it is freed; a device must confirm it.

The one rule: what the device does not confirm is not given back early; it comes back with the exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from router.domain.models import Footprint
from router.domain.news import Freed, News
from router.runtime.asking import Asking
from router.telemetry import logger

log = logger("runtime")

CONFIRM_SECONDS = 1.0
_EVERY = 0.002
_SLOWEST = 0.05
_ENOUGH = 0.95
"""Of a model's bytes on a device: allocators keep a little, and the readings are rounded to pages of 2 MiB."""
_HOST = "host"


class Devices(Protocol):
    """`sizing.meter.Meter`: a driver hides behind it."""

    def used_by(self, pid: int) -> Mapping[str, int]: ...
    def free(self, device: str) -> int | None: ...


class NoDevices:
    """None that could be asked."""

    def used_by(self, pid: int) -> Mapping[str, int]:
        return {}

    def free(self, device: str) -> int | None:
        return None


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one device says: the bytes of the process or, where the driver hides processes, of everybody."""

    taken: int
    ours: bool


class Departure:
    """One worker that is told to stop. `overhead`: bytes by device that stay until the process is gone."""

    def __init__(
        self,
        pid: int,
        resident: Mapping[str, Footprint],
        overhead: Mapping[str, int],
        devices: Devices | None = None,
        asking: Asking | None = None,
    ) -> None:
        self._pid = pid
        self._buffers = {device: size.total - size.overhead for device, size in resident.items()}
        self._named = [device for device in self._buffers if device != _HOST]
        self._overhead = dict(overhead)
        self._devices = devices or NoDevices()
        self._asking = asking or Asking()
        self._before: Mapping[str, _Reading] = {}

    async def weigh(self) -> None:
        """Before the Stop: what it holds now, which is what must sink."""
        if self._named:
            self._before = await self._asking.ask(self._read)

    async def confirm(self, tell: Callable[[News], None]) -> None:
        """After its `Freed`: tell, as soon as every device confirms it."""
        pause, waited, now = _EVERY, 0.0, self._before
        while self._named:
            now = await self._asking.ask(self._read)
            if self._is_back(now):
                break
            if waited >= CONFIRM_SECONDS:
                log.info("a device does not confirm what was freed", pid=self._pid, readings=dict(now))
                return
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, _SLOWEST)
        measured = {device: now[device].taken for device in self._named if now[device].ours}
        tell(Freed({**self._overhead, **measured}))

    def _read(self) -> dict[str, _Reading]:
        used = self._devices.used_by(self._pid)
        readings = {device: _Reading(used[device], True) for device in self._named if device in used}
        for device in self._named:
            if device not in readings and (free := self._devices.free(device)) is not None:
                readings[device] = _Reading(-free, False)
        return readings

    def _is_back(self, now: Mapping[str, _Reading]) -> bool:
        return all(self._has_sunk(self._before.get(d), now.get(d), self._buffers[d]) for d in self._named)

    @staticmethod
    def _has_sunk(before: _Reading | None, now: _Reading | None, buffers: int) -> bool:
        if before is None or now is None or before.ours != now.ours:
            return False
        return before.taken - now.taken >= _ENOUGH * buffers


def overheads(resident: Mapping[str, Footprint], estimated: Mapping[str, Footprint]) -> dict[str, int]:
    """What each device holds for the process alone: as measured, else as estimated."""
    known = {device: size.overhead for device, size in estimated.items()}
    return {device: size.overhead or known.get(device, 0) for device, size in resident.items()}
