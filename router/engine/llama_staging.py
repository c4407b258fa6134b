"""
A load whose weights reach the GPU through `upload` instead of llama.cpp's own copies, tensor by tensor.

llama.cpp maps the file and hands each tensor to the buffer's `set_tensor`, which copies pageable memory at some
6 GiB/s. Within `staged` that entry of the buffer's table of functions is ours: it says which piece of which file
goes where, and returns; many threads do the rest.

The one rule: what does not look exactly as expected (layout, mapping, device) goes the library's own way.
"""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.engine import cuda
from router.engine.batch import EngineError
from router.engine.llama_devices import function, gpus
from router.engine.llama_log import llama
from router.engine.upload import Lane, Upload

_ctypes = llama.ctypes
_Pointer, _Size = _ctypes.c_void_p, _ctypes.c_size_t

_Alloc = _ctypes.CFUNCTYPE(_Pointer, _Pointer, _Size)
_SetTensor = _ctypes.CFUNCTYPE(None, _Pointer, _Pointer, _Pointer, _Size, _Size)


class _BufferType(_ctypes.Structure):  # type: ignore[misc, name-defined]
    """ggml_backend_buffer_type: a table of six functions, then the device."""

    _fields_ = (
        ("get_name", _Pointer),
        ("alloc_buffer", _Pointer),
        ("others", _Pointer * 4),
        ("device", _Pointer),
    )


class _Buffer(_ctypes.Structure):  # type: ignore[misc, name-defined]
    """ggml_backend_buffer: a table of eleven functions, then what it is."""

    _fields_ = (
        ("before", _Pointer * 4),
        ("set_tensor", _Pointer),
        ("after", _Pointer * 6),
        ("type", _Pointer),
        ("context", _Pointer),
        ("size", _Size),
    )


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of a file in this process's memory: bytes `start` to `end` of memory are the file from `offset`."""

    start: int
    end: int
    offset: int
    path: str


def mappings(text: str) -> list[Mapping]:
    """The files among the lines of /proc/PID/maps, by address."""
    found = []
    for line in text.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith("/"):
            start, end = (int(number, 16) for number in fields[0].split("-"))
            found.append(Mapping(start, end, int(fields[2], 16), fields[5]))
    return found


def covering(known: Sequence[Mapping], data: int, count: int) -> Mapping | None:
    """The one of these mappings, sorted by address, that holds `count` bytes from `data` on."""
    index = bisect.bisect_right(known, data, key=lambda m: m.start) - 1
    return known[index] if index >= 0 and data + count <= known[index].end else None


@contextlib.contextmanager
def staged(progress: Callable[[float], None]) -> Iterator[Callable[[float], None]]:
    """
    Load a model inside; on leaving, its weights are on the device. Gives what to report llama.cpp's progress to.

    Raises EngineError when a copy failed. Where there is no CUDA device, or several, this is a plain load.
    """
    type_ = _cuda_buffer_type()
    if type_ is None:
        yield progress
        return
    with contextlib.ExitStack() as undo:
        staging = Staging(_cuda_lane, undo)
        staging.hook(type_)
        yield lambda fraction: None if staging.upload.used else progress(fraction)
        staging.upload.finish(progress)


_kept: list[object] = []
"""Functions that C may still call: those of buffers, as long as the process lives."""


class Staging:
    """The hooks of one load. `open_lane(address, size)` makes a lane to the device that holds the address."""

    def __init__(self, open_lane: Callable[[int, int], Lane], undo: contextlib.ExitStack) -> None:
        self._open_lane = open_lane
        self._undo = undo
        self._target = 0
        self._files: dict[str, int] = {}
        self._mappings: list[Mapping] = []
        self._open = True
        self.upload = Upload(lambda size: self._open_lane(self._target, size))
        undo.callback(self._close)

    def hook(self, address: int) -> None:
        """Every buffer of this type that is made until `undo` is ours to fill."""
        type_ = _BufferType.from_address(address)
        original = type_.alloc_buffer
        alloc = _Alloc(original)

        def allocate(buffer_type: int, size: int) -> int | None:
            buffer: int | None = alloc(buffer_type, size)
            if buffer:
                self._fill_ourselves(_Buffer.from_address(buffer), address, size)
            return buffer

        type_.alloc_buffer = _address(_Alloc(allocate))
        self._undo.callback(setattr, type_, "alloc_buffer", original)

    def _fill_ourselves(self, buffer: _Buffer, type_: int, size: int) -> None:
        if buffer.type != type_ or buffer.size < size or not buffer.set_tensor:
            return  # another layout than the one we know
        set_tensor = _SetTensor(buffer.set_tensor)

        def fill(address: int, tensor: int, data: int, offset: int, count: int) -> None:
            if not (self._open and self._staged(tensor, data, offset, count)):
                set_tensor(address, tensor, data, offset, count)

        # Not undone: a load that fails has freed its buffers by then.
        buffer.set_tensor = _address(_SetTensor(fill))

    def _staged(self, tensor: int, data: int, offset: int, count: int) -> bool:
        """Whether the copy is on its way. C calls: an exception would be lost, and the tensor with it."""
        try:
            mapping = self._mapping(data, count)
            target = function("ggml_get_data", _Pointer, _Pointer)(tensor)
            if mapping is None or not target:
                return False
            file = self._file(mapping.path)
            self._target = self._target or target
            self.upload.add(file, data - mapping.start + mapping.offset, target + offset, count)
        except Exception:
            self._open = self.upload.used  # lanes that cannot be opened now are not tried for each tensor
            return False
        return True

    def _mapping(self, data: int, count: int) -> Mapping | None:
        """The mapped file that holds these bytes; it may have been mapped since the last look."""
        found = covering(self._mappings, data, count)
        if found is None:
            self._mappings = mappings(Path("/proc/self/maps").read_text())
            found = covering(self._mappings, data, count)
        return found

    def _file(self, path: str) -> int:
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY)
        return self._files[path]

    def _close(self) -> None:
        self._open = False
        self.upload.abandon()
        for descriptor in self._files.values():
            os.close(descriptor)


def _address(callback: Any) -> int | None:
    _kept.append(callback)
    address: int | None = _ctypes.cast(callback, _Pointer).value
    return address


def _cuda_lane(address: int, size: int) -> Lane:
    return cuda.CudaLane(cuda.device_of(address), size)


def _cuda_buffer_type() -> int | None:
    """That of the one CUDA device; None without one, or with several: each would need an upload of its own."""
    try:
        cuda.driver()
        (gpu,) = gpus()
        address: int | None = function("ggml_backend_dev_buffer_type", _Pointer, _Pointer)(gpu)
    except (EngineError, ValueError, AttributeError):
        return None
    return address
