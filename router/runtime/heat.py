"""
The heat of the devices, exported and told once when it begins or ends to slow them down.

The one rule: a driver that blocks holds nobody up; it is asked in a thread.
"""

from __future__ import annotations

import asyncio

from router.sizing.thermals import REASONS, Heat, Thermals
from router.telemetry import Metrics, logger

log = logger("runtime")

EVERY = 5.0


async def watch(thermals: Thermals, metrics: Metrics, every: float = EVERY) -> None:
    """Until cancelled; returns at once where no device tells its temperature."""
    known: dict[str, Heat] = {}
    while now := await asyncio.to_thread(thermals.readings):
        for device, heat in now.items():
            _export(metrics, device, heat)
            before = known.get(device)
            if heat.slowed_by != (before.slowed_by if before else frozenset()):
                log.warning(
                    "a device is slowed down" if heat.slowed_by else "a device runs at full speed again",
                    device=device,
                    celsius=heat.celsius,
                    by=sorted(heat.slowed_by),
                )
        known = now
        await asyncio.sleep(every)


def _export(metrics: Metrics, device: str, heat: Heat) -> None:
    metrics.device_temperature.labels(device).set(heat.celsius)
    for reason in REASONS:
        metrics.device_slowed.labels(device, reason).set(reason in heat.slowed_by)
