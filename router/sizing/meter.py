"""
Live readings of the devices: what is free, what one process holds, what strangers leave us.

The one rule: a reading is a few system calls and never an error; what cannot be read is None, or left out.

What counts as held by a process: on a GPU what NVML says of it (its buffers, the CUDA context, kernels and
scratch); on the host its anonymous memory (`RssAnon`), so neither libraries nor mapped weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from router.domain.memory import Bytes
from router.sizing import devices
from router.sizing.devices import Device, Machine
from router.sizing.nvml import Driver

_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
HOST = "host"


class Meter:
    """The arguments after the first are for tests: the driver, the host's memory, where /proc lies."""

    def __init__(
        self,
        found: Sequence[Device],
        driver: Driver | None = None,
        machine: Callable[[], Machine] = psutil.virtual_memory,
        root: Path = Path("/"),
    ) -> None:
        self._gpus = {device.name: device.uuid for device in found if device.uuid}
        self._driver = driver or Driver()
        self._machine = machine
        self._root = root

    def free(self, device: str) -> int | None:
        """Bytes that nobody holds."""
        if device == HOST:
            return devices.host(self._machine(), self._root).free
        uuid = self._gpus.get(device)
        return None if uuid is None else self._driver.free(uuid)

    def used_by(self, pid: int) -> dict[str, int]:
        """Bytes by device; a GPU that does not tell of this process is left out."""
        held = {}
        for name, uuid in self._gpus.items():
            if (size := self._driver.used(uuid).get(pid)) is not None:
                held[name] = size
        if (private := self._private(pid)) is not None:
            held[HOST] = private
        return held

    def beside_strangers(self, pids: Iterable[int], booked: Mapping[int, Bytes]) -> dict[str, int]:
        """
        Bytes by device that we could hold at most: what is free, and what these processes of ours hold.

        `booked`: what residency counts for some of them, and takes off again. What one holds beyond that is as
        gone as a stranger's; what one has not yet grown to is still free, and is no room for others.
        Only of devices that tell of both.
        """
        ours = list(pids)
        room = {}
        for name, uuid in self._gpus.items():
            free, used = self._driver.free(uuid), self._driver.used(uuid)
            # Without a word of any of ours the driver hides processes: what they hold would look like strangers'.
            if free is not None and (not ours or any(pid in used for pid in ours)):
                room[name] = free + _counted(name, {pid: used.get(pid, 0) for pid in ours}, booked)
        if (free := self.free(HOST)) is not None:
            private = {pid: self._private(pid) or 0 for pid in ours}
            room[HOST] = free + _counted(HOST, private, booked)
        return room

    def _private(self, pid: int) -> int | None:
        try:
            found = _ANONYMOUS.search((self._root / f"proc/{pid}/status").read_text())
        except OSError:
            return None
        return int(found[1]) * 1024 if found else None


def _counted(device: str, held: Mapping[int, int], booked: Mapping[int, Bytes]) -> int:
    return sum(min(size, booked.get(pid, {}).get(device, size)) for pid, size in held.items())
