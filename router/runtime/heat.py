"""
The heat of the devices: exported, told once when it begins or ends to slow them down, and what it asks of pacing.

The one rule: a driver that blocks holds nobody up; it is asked by `asking`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from router.runtime.asking import Asking
from router.sizing.pacing import Pace, paced
from router.sizing.thermals import REASONS, Heat, Thermals
from router.telemetry import Metrics, logger

log = logger("runtime")

EVERY = 5.0
SILENT = 12
"""Readings in a row in which no device said anything: then none will."""


class Pacing:
    """
    Tells `tell` the shares of the slots that hot devices may use, whenever they change.

    `limits`: degrees Celsius by device, as the registry has them now.
    """

    def __init__(
        self, limits: Callable[[], Mapping[str, int]], tell: Callable[[Mapping[str, float]], None]
    ) -> None:
        self._limits = limits
        self._tell = tell
        self._paces: dict[str, Pace] = {}

    def read(self, at: float, now: Mapping[str, Heat]) -> None:
        celsius = {device: heat.celsius for device, heat in now.items()}
        self._settle(paced(self._paces, self._limits(), at, celsius), celsius)

    def give_up(self) -> None:
        """Nobody will say any more when it is cool: everything runs at full pace."""
        self._settle({}, {})

    def _settle(self, paces: dict[str, Pace], celsius: Mapping[str, int]) -> None:
        before, self._paces = self._paces, paces
        for device in before.keys() | paces.keys():
            share = paces.get(device, Pace()).share
            if share != before.get(device, Pace()).share:
                log.warning(
                    "the pace of a device changed", device=device, celsius=celsius.get(device), share=share
                )
        shares = {device: pace.share for device, pace in paces.items()}
        if shares != {device: pace.share for device, pace in before.items()}:
            self._tell(shares)


async def watch(
    thermals: Thermals,
    metrics: Metrics,
    pacing: Pacing,
    every: float = EVERY,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Until cancelled; returns where no device tells its temperature, at once if none ever did."""
    driver = Asking()
    known: dict[str, Heat] = {}
    silent = 0
    while silent < SILENT and ((now := await driver.ask(thermals.readings)) or known):
        silent = 0 if now else silent + 1
        for device, heat in now.items():
            _export(metrics, device, heat)
            _told(device, heat, known.get(device))
        known |= now
        pacing.read(clock(), now)
        await asyncio.sleep(every)
    pacing.give_up()


def _told(device: str, heat: Heat, before: Heat | None) -> None:
    if heat.slowed_by != (before.slowed_by if before else frozenset()):
        log.warning(
            "a device is slowed down" if heat.slowed_by else "a device runs at full speed again",
            device=device,
            celsius=heat.celsius,
            by=sorted(heat.slowed_by),
        )


def _export(metrics: Metrics, device: str, heat: Heat) -> None:
    metrics.device_temperature.labels(device).set(heat.celsius)
    for reason in REASONS:
        metrics.device_slowed.labels(device, reason).set(reason in heat.slowed_by)
