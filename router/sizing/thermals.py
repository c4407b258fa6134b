"""
How hot a device is, and whether heat or power slows it down.

The one rule: what the driver says, by name; a device that does not say is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.sizing.devices import Device
from router.sizing.nvml import Driver

REASONS = {
    "power_cap": 0x04,
    "hardware_slowdown": 0x08,
    "software_thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}
"""NVML's clocks event reasons (nvml.h), without those that are nobody's trouble: idle, or clocks that were set."""


@dataclass(frozen=True, slots=True)
class Heat:
    """One reading. `slowed_by`: names of REASONS."""

    celsius: int
    slowed_by: frozenset[str]


class Thermals:
    """The GPUs among `found`; the driver is for tests."""

    def __init__(self, found: Sequence[Device], driver: Driver | None = None) -> None:
        self._gpus = {device.name: device.uuid for device in found if device.uuid}
        self._driver = driver or Driver()

    def readings(self) -> dict[str, Heat]:
        """By device. A few system calls."""
        found = {}
        for name, uuid in self._gpus.items():
            if (said := self._driver.heat(uuid)) is not None:
                celsius, bits = said
                found[name] = Heat(celsius, frozenset(name for name, bit in REASONS.items() if bits & bit))
        return found
