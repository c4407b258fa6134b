"""
When is a worker hung? Counts beats without a sign of life; pings carry the signs.

* Deaf: it answers no ping for DEAF seconds and uses no processor time meanwhile. The thread that answers has
  nothing else to do, so this holds for a spare, a load, an idle worker and a decoding one.
* Reading: it reads the same prompt for hang_seconds. `unread` then names those that must not be tried again.
* Stalled: it is busy and makes no decode step for max(hang_seconds, 20 x the moving average of its steps).

A beat in which it computed counts as a tenth where that may be honest work: a prompt of megabytes, or a step of a
model that has no device.

The one rule: beats are counted, not seconds: a gateway that was stopped itself must not blame its workers.
"""

from __future__ import annotations

import asyncio
import itertools

from router import protocol
from router.runtime.process import WorkerProcess

DEAF = 4.0
"""Seconds; with a beat of one it is killed within 5 s of its last sign of life (G11)."""
_STEPS = 20
_PATIENCE_WITH_WORK = 10
_SMOOTHING = 0.2
_ASLEEP = 0.05
"""The share of a processor below which it does nothing; the gateway's own pings cost it less."""


class Pulse:
    """`every` is seconds a beat. `on_device`: a step that computes on the processor is no excuse."""

    def __init__(
        self, every: float, hang_seconds: float, deaf_seconds: float = DEAF, on_device: bool = False
    ) -> None:
        self._every = every
        self._hang_seconds = hang_seconds
        self._deaf_seconds = deaf_seconds
        self._on_device = on_device
        self._deaf = self._stalled = 0.0
        self._steps = -1
        self._cpu = 0.0
        self._reading = 0.0
        self._unread: tuple[str, ...] = ()
        self.hung_over: tuple[str, ...] = ()
        """The requests that were not read yet when it was found hung, if that is what it hung over."""
        self.step = 0.0
        """Moving average of the time from one decode step to the next, in seconds."""

    def complaint(self, pong: protocol.Pong | None, cpu: float) -> str | None:
        """After each beat: why it must be killed, or None. `cpu`: processor seconds that it has used in all."""
        computes, self._cpu = cpu - self._cpu >= self._every * _ASLEEP, cpu
        beat = self._every / _PATIENCE_WITH_WORK if computes else self._every
        if pong is None:
            self._deaf += beat
            if self._deaf < self._deaf_seconds:
                return None
            self.hung_over = self._unread
            return f"no answer to a ping for {self._deaf_seconds:g} s"
        self._deaf = 0.0
        if self._reads_for_ever(pong, beat):
            self.hung_over = pong.unread
            return f"the same prompt has been read for {self._hang_seconds:g} s"
        if pong.busy and pong.steps == self._steps:
            self._stalled += self._every if self._on_device else beat
            limit = max(self._hang_seconds, _STEPS * self.step)
            return f"no decode step for {limit:g} s" if self._stalled >= limit else None
        self._measure(pong)
        return None

    def _reads_for_ever(self, pong: protocol.Pong, beat: float) -> bool:
        same = bool(pong.unread) and pong.unread[0] in self._unread[:1]
        self._reading = self._reading + beat if same else 0.0
        self._unread = pong.unread
        return self._reading >= self._hang_seconds

    def _measure(self, pong: protocol.Pong) -> None:
        if pong.busy and self._steps >= 0:
            took = (self._stalled + self._every) / max(1, pong.steps - self._steps)
            self.step += _SMOOTHING * (took - self.step) if self.step else took
        self._stalled, self._steps = 0.0, pong.steps


class Watch:
    """Pings one process beat by beat; whoever hears its events gives each Pong to `heard`."""

    def __init__(self, process: WorkerProcess, pulse: Pulse, every: float) -> None:
        self._process = process
        self._pulse = pulse
        self._every = every
        self._pong: protocol.Pong | None = None

    @property
    def hung_over(self) -> tuple[str, ...]:
        """Requests that must not be tried again: it was killed because it did not come to an end with their prompts."""
        return self._pulse.hung_over

    def heard(self, pong: protocol.Pong) -> None:
        self._pong = pong

    async def run(self) -> None:
        """Until the process is lost; kills it when it is hung."""
        for number in itertools.count(1):
            if self._process.doomed:
                return
            self._pong = None
            self._process.send(protocol.Ping(number))
            await asyncio.sleep(self._every)
            complaint = self._pulse.complaint(self._pong, self._process.cpu_seconds())
            if complaint is not None:
                self._process.kill(f"killed because it hung: {complaint}")
                return
