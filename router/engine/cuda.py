"""
CUDA's driver, as much of it as a fast upload needs: page-locked buffers, a stream, copies that do not wait.

The one rule: the driver's library is the only door, and only where llama.cpp has opened it before; every call's
result is looked at.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

from router.engine.batch import EngineError

_DEVICE_ORDINAL = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_BUFFERS = 2

_Pointer = ctypes.c_void_p


@functools.cache
def driver() -> Any:
    """The driver's library. Raises EngineError where there is none."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(f"There is no CUDA driver: {error}") from error
    pointer, size = _Pointer, ctypes.c_size_t
    for name, arguments in {
        "cuPointerGetAttribute": [pointer, ctypes.c_int, ctypes.c_uint64],
        "cuDevicePrimaryCtxRetain": [pointer, ctypes.c_int],
        "cuDevicePrimaryCtxRelease_v2": [ctypes.c_int],
        "cuCtxSetCurrent": [pointer],
        "cuStreamCreate": [pointer, ctypes.c_uint],
        "cuStreamDestroy_v2": [pointer],
        "cuStreamSynchronize": [pointer],
        "cuEventCreate": [pointer, ctypes.c_uint],
        "cuEventRecord": [pointer, pointer],
        "cuEventSynchronize": [pointer],
        "cuEventDestroy_v2": [pointer],
        "cuMemHostAlloc": [pointer, size, ctypes.c_uint],
        "cuMemFreeHost": [pointer],
        "cuMemcpyHtoDAsync_v2": [ctypes.c_uint64, pointer, size, pointer],
    }.items():
        getattr(library, name).argtypes = arguments
    return library


def device_of(address: int) -> int:
    """The number of the device that holds this address. Raises EngineError when none does."""
    ordinal = ctypes.c_int(-1)
    _call("cuPointerGetAttribute", ctypes.byref(ordinal), _DEVICE_ORDINAL, address)
    return ordinal.value


class CudaLane:
    """Implements `upload.Lane` for one device. Made, used and closed in one thread."""

    def __init__(self, device: int, size: int) -> None:
        self._device = device
        context, self._stream = _Pointer(), _Pointer()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        _call("cuCtxSetCurrent", context)
        _call("cuStreamCreate", ctypes.byref(self._stream), 1)  # does not wait for the default stream
        self._memory = [_locked(size) for _ in range(_BUFFERS)]
        self._events = [_event() for _ in range(_BUFFERS)]
        self._sent = [False] * _BUFFERS
        self.buffers: Sequence[memoryview] = [_view(memory, size) for memory in self._memory]

    def send(self, buffer: int, address: int, size: int) -> None:
        _call("cuMemcpyHtoDAsync_v2", address, self._memory[buffer], size, self._stream)
        _call("cuEventRecord", self._events[buffer], self._stream)
        self._sent[buffer] = True

    def settle(self, buffer: int) -> None:
        if self._sent[buffer]:
            _call("cuEventSynchronize", self._events[buffer])
            self._sent[buffer] = False

    def close(self) -> None:
        self.buffers = ()
        library = driver()  # on the way out nothing can be done about an error
        library.cuStreamSynchronize(self._stream)
        for event in self._events:
            library.cuEventDestroy_v2(event)
        for memory in self._memory:
            library.cuMemFreeHost(memory)
        library.cuStreamDestroy_v2(self._stream)
        library.cuDevicePrimaryCtxRelease_v2(self._device)


def _locked(size: int) -> _Pointer:
    memory = _Pointer()
    _call("cuMemHostAlloc", ctypes.byref(memory), size, 0)
    return memory


def _event() -> _Pointer:
    event = _Pointer()
    _call("cuEventCreate", ctypes.byref(event), _NO_TIMING)
    return event


def _view(memory: _Pointer, size: int) -> memoryview:
    assert memory.value is not None
    return memoryview((ctypes.c_uint8 * size).from_address(memory.value)).cast("B")


def _call(name: str, *arguments: object) -> None:
    code = getattr(driver(), name)(*arguments)
    if code:
        raise EngineError(f"CUDA refused {name} (code {code}).")
