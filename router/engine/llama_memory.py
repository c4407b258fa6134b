"""
What llama.cpp's buffers hold, by its own account, for a real context and for one that allocated nothing.

The one rule: a C++ map is read here by its layout, so nothing is believed before it was checked; whoever
asks gets EngineError, and falls back on the formula, when the build does not look as expected.

Each byte is counted once. A CPU build maps the file and copies some types (Q4_0, Q4_K) into a layout of its
own: llama.cpp reports the whole mapping *and* the copy; here the mapping counts for the tensors still read
from it, which is what a dry run says as well. The buffer of the logits, which llama.cpp's breakdown leaves
out, is counted as compute of the host.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from router.domain.models import Footprint
from router.engine.batch import EngineError
from router.engine.llama_devices import HOST, device_of, function, library
from router.engine.llama_log import llama

_ctypes = llama.ctypes
_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"
_TENSORS = "_Z29llama_internal_get_tensor_mapB5cxx11PK11llama_model"
_MAPPED = "CPU_Mapped"
_MOST_TENSORS = 1 << 20


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


class _Entry(_ctypes.Structure):  # type: ignore[misc, name-defined]
    """An element of libstdc++'s std::vector<std::pair<std::string, ggml_tensor *>>."""

    _fields_ = (
        ("name", _ctypes.c_char_p),
        ("length", _ctypes.c_size_t),
        ("short_name", _ctypes.c_char * 16),
        ("tensor", _ctypes.c_void_p),
    )


class _Vector(_ctypes.Structure):  # type: ignore[misc, name-defined]
    _fields_ = (("begin", _ctypes.c_size_t), ("end", _ctypes.c_size_t), ("capacity", _ctypes.c_size_t))


class _Tensor(_ctypes.Structure):  # type: ignore[misc, name-defined]
    """The beginning of a ggml_tensor."""

    _fields_ = (("type", _ctypes.c_int), ("buffer", _ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes of one buffer type."""

    name: str
    device: str
    """Whose memory it is: "gpu0", "gpu1" or "host"."""
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
    model = llama.llama_get_model(context)
    return tuple(replace(b, model=_still_read(model, b)) if b.name == _MAPPED else b for b in buffers)


def footprints(buffers: tuple[Buffers, ...], outputs: int = 0, overhead: int = 0) -> dict[str, Footprint]:
    """
    By device name. What a GPU's driver takes beside the buffers is not known here, and 0.

    `outputs` and `overhead` are bytes of the host: the rows of logits, and what the process holds besides.
    """
    held = {buffer.device: Footprint() for buffer in buffers} | {HOST: Footprint(0, 0, outputs, overhead)}
    for buffer in buffers:
        so_far = held[buffer.device]
        held[buffer.device] = Footprint(
            weights=so_far.weights + buffer.model,
            kv_cache=so_far.kv_cache + buffer.context,
            compute=so_far.compute + buffer.compute,
            overhead=so_far.overhead,
        )
    return {device: held[device] for device in sorted(held) if held[device].total}


def copies_mapped(buffers: tuple[Buffers, ...]) -> bool:
    """Whether weights were copied out of the mapped file into host memory: then their originals are idle."""
    names = {buffer.name for buffer in buffers if buffer.device == HOST and buffer.model}
    return _MAPPED in names and len(names) > 1


def mapped(buffers: tuple[Buffers, ...]) -> int:
    """Bytes of the weights that are read from the mapped file."""
    return sum(buffer.model for buffer in buffers if buffer.name == _MAPPED)


def touched(buffers: tuple[Buffers, ...]) -> int:
    """Bytes of ordinary host memory that a load has written: copied weights and the cleared KV cache."""
    ours = [b for b in buffers if b.name.startswith("CPU") or b.name == "AMX"]
    return sum(b.context + (0 if b.name == _MAPPED else b.model) for b in ours)


def _still_read(model: Any, buffers: Buffers) -> int:
    """Bytes of the tensors that are read from the mapped file, padded as a dry run pads them."""
    name_of = function("ggml_backend_buft_name", _ctypes.c_char_p, _ctypes.c_void_p)
    type_of = function("ggml_backend_buffer_get_type", _ctypes.c_void_p, _ctypes.c_void_p)
    align = function("ggml_backend_buft_get_alignment", _ctypes.c_size_t, _ctypes.c_void_p)
    size_of = function("ggml_nbytes", _ctypes.c_size_t, _ctypes.c_void_p)
    total = 0
    for tensor in _tensors(model):
        held_by = _Tensor.from_address(tensor).buffer
        kind = type_of(held_by) if held_by else None
        if kind and name_of(kind) == _MAPPED.encode():
            step = align(kind) or 1
            total += -(-size_of(tensor) // step) * step
    # A mapping covers what lies between its tensors, too; and a build of another layout tells nonsense.
    return total if 0 < total <= buffers.model else buffers.model


def _tensors(model: Any) -> list[int]:
    """Pointers to the model's tensors; none where the build does not look as expected."""
    try:
        vector = _Vector.from_address(
            function(_TENSORS, _ctypes.c_void_p, _ctypes.c_void_p, of="llama")(model)
        )
    except AttributeError:
        return []
    count, rest = divmod(vector.end - vector.begin, _ctypes.sizeof(_Entry))
    if rest or not 0 < count < _MOST_TENSORS:
        return []
    return [entry.tensor for entry in (_Entry * count).from_address(vector.begin)]


@functools.cache
def _breakdown_function() -> Any:
    try:
        found = getattr(library("llama"), _SYMBOL)
    except AttributeError as error:
        raise EngineError("This build of llama.cpp does not tell its memory breakdown.") from error
    # A class that is returned by value comes back through a hidden first pointer.
    found.argtypes, found.restype = [_ctypes.c_void_p, _ctypes.c_void_p], _ctypes.c_void_p
    return found


def _walk(node: Any) -> Iterator[Buffers]:
    if not node:
        return
    yield from _walk(node.contents.left)
    yield _buffers(node.contents)
    yield from _walk(node.contents.right)


def _buffers(node: _Node) -> Buffers:
    name_of = function("ggml_backend_buft_name", _ctypes.c_char_p, _ctypes.c_void_p)
    name = name_of(node.buffer_type).decode()
    return Buffers(name, device_of(node.buffer_type), node.model, node.context, node.compute)
