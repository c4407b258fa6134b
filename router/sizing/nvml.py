"""
The NVIDIA driver's view: boards, their free memory, and which process holds how much of it.

The one rule: only this file imports NVML, and a driver that is missing, broken or silent is no board and no
number, never an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU as the driver lists it; memory in bytes."""

    uuid: str
    total: int
    free: int
    linked: bool = False
    """It has an NVLink that is up."""


class Driver:
    """A session with NVML, opened by the first question and kept: a question costs well under a millisecond."""

    def __init__(self) -> None:
        self._library: Any = None
        self._tried = False

    def boards(self) -> tuple[Board, ...]:
        nvml = self._nvml()
        if nvml is None:
            return ()
        return self._ask(
            lambda: tuple(_board(nvml, number) for number in range(nvml.nvmlDeviceGetCount())), ()
        )

    def free(self, uuid: str) -> int | None:
        """Bytes that nobody holds; None where the driver does not say."""
        nvml = self._nvml()
        if nvml is None:
            return None
        return self._ask(lambda: int(nvml.nvmlDeviceGetMemoryInfo(_handle(nvml, uuid)).free), None)

    def used(self, uuid: str) -> dict[int, int]:
        """Process id -> bytes. Empty where the driver does not say (some containers, MIG, WSL)."""
        nvml = self._nvml()
        if nvml is None:
            return {}
        running: list[Any] = self._ask(
            lambda: nvml.nvmlDeviceGetComputeRunningProcesses(_handle(nvml, uuid)), []
        )
        return {int(one.pid): int(one.usedGpuMemory) for one in running if one.usedGpuMemory}

    def heat(self, uuid: str) -> tuple[int, int] | None:
        """Degrees Celsius, and NVML's bits of why the clocks are lower than they could be."""
        nvml = self._nvml()
        if nvml is None:
            return None
        return self._ask(lambda: _heat(nvml, _handle(nvml, uuid)), None)

    def _nvml(self) -> Any:
        if not self._tried:
            self._tried = True
            with contextlib.suppress(ImportError):
                import pynvml

                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlInit()
                    self._library = pynvml
        return self._library

    def _ask(self, question: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return question()
        except self._library.NVMLError:
            return otherwise


def _board(nvml: Any, number: int) -> Board:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    text = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
    return Board(text, int(memory.total), int(memory.free), _linked(nvml, handle))


def _heat(nvml: Any, handle: Any) -> tuple[int, int]:
    gpu_sensor = 0
    celsius = int(nvml.nvmlDeviceGetTemperature(handle, gpu_sensor))
    return celsius, int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _linked(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetNvLinkState(handle, 0))
    except nvml.NVMLError:
        return False


def _handle(nvml: Any, uuid: str) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(uuid)
