"""
What llama.cpp's buffers hold, by its own account, for a real context and for one that allocated nothing.

The one rule: a C++ map is read here by its layout, so nothing is believed before it was checked; whoever
asks gets EngineError, and falls back on the formula, when the build does not look as expected.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.domain.models import Footprint
from router.engine.batch import EngineError
from router.engine.llama_log import llama

_ctypes = llama.ctypes
_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"
_GPU_TYPES = (1, 2)  # ggml_backend_dev_type: GPU, IGPU
_MOST_BUFFER_TYPES = 64


class _Node(_ctypes.Structure):  # type: ignore[misc, name-defined]
    """A node of libstdc++'s std::map<ggml_backend_buffer_type_t, {model, context, compute}>."""


_Node._fields_ = [
    ("color", _ctypes.c_int),
    ("parent", _ctypes.POINTER(_Node)),
    ("left", _ctypes.POINTER(_Node)),
    ("right", _ctypes.POINTER(_Node)),
    ("buffer_type", _ctypes.c_void_p),
    ("model", _ctypes.c_size_t),
    ("context", _ctypes.c_size_t),
    ("compute", _ctypes.c_size_t),
]


class _Map(_ctypes.Structure):  # type: ignore[misc, name-defined]
    _fields_ = (
        ("compare", _ctypes.c_size_t),
        ("color", _ctypes.c_int),
        ("root", _ctypes.POINTER(_Node)),
        ("leftmost", _ctypes.POINTER(_Node)),
        ("rightmost", _ctypes.POINTER(_Node)),
        ("count", _ctypes.c_size_t),
    )


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes of one buffer type."""

    name: str
    on_device: bool
    model: int
    context: int
    compute: int


def breakdown(context: Any) -> tuple[Buffers, ...]:
    """One entry a buffer type. The nodes (64 bytes each) are not given back: it is asked once a process."""
    map_ = _Map()
    _breakdown_function()(_ctypes.byref(map_), context)
    buffers = tuple(_walk(map_.root))
    if len(buffers) != map_.count or not buffers:
        raise EngineError("This build's memory breakdown has another layout than expected.")
    return buffers


def footprints(context: Any) -> dict[str, Footprint]:
    """By device name: bytes on the first GPU, or on the host in a build that offloads nothing."""
    offloads = llama.llama_supports_gpu_offload()
    buffers = [b for b in breakdown(context) if b.on_device or not offloads]
    held = Footprint(
        weights=sum(b.model for b in buffers),
        kv_cache=sum(b.context for b in buffers),
        compute=sum(b.compute for b in buffers),
    )
    return {"gpu0" if offloads else "host": held}


@functools.cache
def _breakdown_function() -> Any:
    try:
        function = getattr(_library("llama"), _SYMBOL)
    except AttributeError as error:
        raise EngineError("This build of llama.cpp does not tell its memory breakdown.") from error
    # A class that is returned by value comes back through a hidden first pointer.
    function.argtypes, function.restype = [_ctypes.c_void_p, _ctypes.c_void_p], _ctypes.c_void_p
    return function


def _walk(node: Any) -> Iterator[Buffers]:
    if not node:
        return
    yield from _walk(node.contents.left)
    yield _buffers(node.contents)
    yield from _walk(node.contents.right)


def _buffers(node: _Node) -> Buffers:
    ggml = _library("ggml-base")
    ggml.ggml_backend_buft_name.restype = _ctypes.c_char_p
    ggml.ggml_backend_buft_name.argtypes = [_ctypes.c_void_p]
    ggml.ggml_backend_buft_is_host.restype = _ctypes.c_bool
    ggml.ggml_backend_buft_is_host.argtypes = [_ctypes.c_void_p]
    ggml.ggml_backend_buft_get_device.restype = _ctypes.c_void_p
    ggml.ggml_backend_buft_get_device.argtypes = [_ctypes.c_void_p]
    ggml.ggml_backend_dev_type.argtypes = [_ctypes.c_void_p]
    device = ggml.ggml_backend_buft_get_device(node.buffer_type)
    on_device = (
        not ggml.ggml_backend_buft_is_host(node.buffer_type)
        and device is not None
        and ggml.ggml_backend_dev_type(device) in _GPU_TYPES
    )
    name = ggml.ggml_backend_buft_name(node.buffer_type).decode()
    return Buffers(name, on_device, node.model, node.context, node.compute)


@functools.cache
def _library(name: str) -> Any:
    """One of the shared libraries that are loaded already."""

    folder = Path(llama.__file__).parent / "lib"
    found = sorted(folder.glob(f"*{name}.*"))
    if not found:
        raise EngineError(f"The library {name} is not beside the bindings.")
    return _ctypes.CDLL(str(found[0]))
