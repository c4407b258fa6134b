"""
One GGUF file, parsed up to where its weights begin.

The one rule: the file is hostile. Every count and length is bounded before anything is allocated for it, and
whatever is wrong ends in a GgufError that says so. Source of the format: docs/gguf.md of ggml.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from router.sizing.ggml_types import BLOCKS, SCALAR_FORMATS, ValueType
from router.sizing.window import Window

MAX_ENTRIES = 65_536
"""Metadata entries of one file."""
MAX_TENSORS = 131_072
MAX_NAME = 65_535
"""Bytes of a key (the format's own limit) or of a tensor's name."""
MAX_STRING = 16 * 2**20
"""Bytes of one string value; the longest in use are chat templates of some 100 kB."""
MAX_KEPT_ARRAY = 1024
"""Longer arrays (vocabularies) are passed over and kept as a LongArray; arrays by layer are shorter."""
MAX_KEPT_BYTES = 64 * 2**20
"""Bytes of all names and strings kept of one file."""
MAX_PASSED_OVER = 2**24
"""Strings and inner arrays passed over in one file: bounds the time."""
MAX_NESTING = 4
MAX_ELEMENTS = 2**48
"""Elements of one tensor."""
MAX_ALIGNMENT = 2**20

_MAGIC = b"GGUF"
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_COUNTS = struct.Struct("<QQ")
_ARRAY = struct.Struct("<IQ")
_PLACE = struct.Struct("<IQ")
_SCALARS = {kind: struct.Struct("<" + letter) for kind, letter in SCALAR_FORMATS.items()}
# The least bytes of an entry (key length, type, value) and of a tensor (name length, shape, type, offset).
_LEAST_ENTRY = 13
_LEAST_TENSOR = 32


class GgufError(Exception):
    """The file is no model that can be loaded. `str()` is a whole sentence that names the file."""


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array that was passed over."""

    length: int


Value = int | float | bool | str | tuple["Value", ...] | LongArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`type` is the ggml type id, `shape` innermost first, `bytes` without the padding behind it."""

    name: str
    shape: tuple[int, ...]
    type: int
    bytes: int

    @property
    def elements(self) -> int:
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count


@dataclass(frozen=True, slots=True)
class GgufFile:
    path: Path
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    size: int

    def integer(self, key: str, default: int) -> int:
        value = self.metadata.get(key, default)
        return value if isinstance(value, int) else default


def read_file(path: Path) -> GgufFile:
    """Parse one file. Raises GgufError."""

    def fail(reason: str) -> NoReturn:
        raise GgufError(f"{path} is not usable: {reason}.")

    with _opened(path) as (descriptor, size):
        if size == 0:
            raise GgufError(f"{path} is empty.")
        parser = _Parser(Window(descriptor, size, fail), fail)
        metadata, tensors = parser.parse()
    return GgufFile(path, metadata, tensors, size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """The descriptor and size of a regular file."""
    try:
        # O_NONBLOCK: a named pipe must be refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = "does not exist" if error.errno == errno.ENOENT else f"cannot be opened: {error.strerror}"
        raise GgufError(f"{path} {reason}.") from error
    except ValueError as error:
        raise GgufError(f"{str(path)!r} is not a path: {error}.") from error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise GgufError(f"{path} is a directory; name a .gguf file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise GgufError(f"{path} is not a regular file.")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


class _Parser:
    """Goes once over one file, front to back."""

    def __init__(self, window: Window, fail: Callable[[str], NoReturn]) -> None:
        self._window = window
        self._fail = fail
        self._kept = 0
        self._passed_over = 0

    def parse(self) -> tuple[dict[str, Value], tuple[TensorInfo, ...]]:
        tensor_count, entry_count = self._preamble()
        self._bound(entry_count, MAX_ENTRIES, _LEAST_ENTRY, "metadata entries")
        metadata = self._metadata(entry_count)
        self._bound(tensor_count, MAX_TENSORS, _LEAST_TENSOR, "tensors")
        alignment = self._alignment(metadata)
        tensors = self._tensors(tensor_count, alignment)
        return metadata, tensors

    def _preamble(self) -> tuple[int, int]:
        magic = self._window.take(min(len(_MAGIC), self._window.size), "the magic number")
        if magic != _MAGIC:
            self._fail(f"not a GGUF file (it begins with {magic!r})")
        version = self._u32("the version")
        if version & 0xFFFF == 0 and version:
            self._fail("a big-endian GGUF file; only little-endian ones are read")
        if version not in (2, 3):
            self._fail(f"GGUF version {version}; versions 2 and 3 are read")
        tensors, entries = self._window.unpack(_COUNTS, "the counts of tensors and metadata")
        return tensors, entries

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(count):
            key = self._string("a metadata key", MAX_NAME)
            if key in metadata:
                self._fail(f"corrupt: the metadata key {key!r} appears twice")
            metadata[key] = self._value(self._kind(key), key)
        return metadata

    def _value(self, kind: ValueType, key: str) -> Value:
        if kind is ValueType.STRING:
            return self._string(f"the value of {key!r}", MAX_STRING)
        if kind is ValueType.ARRAY:
            return self._array(key, 1)
        value: int | float | bool = self._window.unpack(_SCALARS[kind], f"the value of {key!r}")[0]
        return value

    def _array(self, key: str, depth: int) -> Value:
        what = f"the array {key!r}"
        if depth > MAX_NESTING:
            self._fail(f"corrupt: {what} is nested more than {MAX_NESTING} deep")
        number, length = self._window.unpack(_ARRAY, what)
        kind = self._known(number, key)
        size = _SCALARS[kind].size if kind in _SCALARS else _U64.size
        if length * size > self._window.remaining:
            self._fail(self._window.shortage(length * size, what))
        if kind is ValueType.ARRAY:
            return self._nested(key, length, depth)
        if length > MAX_KEPT_ARRAY:
            self._pass_over(kind, length, size, what)
            return LongArray(length)
        if kind is ValueType.STRING:
            return tuple(self._string(f"a string of {key!r}", MAX_STRING) for _ in range(length))
        return self._window.unpack(struct.Struct(f"<{length}{SCALAR_FORMATS[kind]}"), what)

    def _nested(self, key: str, length: int, depth: int) -> Value:
        self._count_passed_over(length)
        for _ in range(length):
            self._array(key, depth + 1)
        return LongArray(length)

    def _pass_over(self, kind: ValueType, length: int, size: int, what: str) -> None:
        if kind is ValueType.STRING:
            self._count_passed_over(length)
            self._window.skip_strings(length, what)
        else:
            self._window.skip(length * size, what)

    def _count_passed_over(self, count: int) -> None:
        self._passed_over += count
        if self._passed_over > MAX_PASSED_OVER:
            self._fail(f"absurd: over {MAX_PASSED_OVER} strings and arrays in its metadata")

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or not 1 <= alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            self._fail(f"corrupt: general.alignment is {alignment!r:.40}, not a power of two")
        return alignment

    def _tensors(self, count: int, alignment: int) -> tuple[TensorInfo, ...]:
        tensors: list[TensorInfo] = []
        end = 0
        for _ in range(count):
            tensor, offset = self._tensor()
            # ggml lays tensors one behind the other and refuses a file that does not.
            expected = _padded(end, alignment)
            if offset != expected:
                self._fail(f"corrupt: tensor {tensor.name!r:.80} lies at {offset}, expected at {expected}")
            end = offset + tensor.bytes
            tensors.append(tensor)
        need = _padded(self._window.position, alignment) + end
        if tensors and need > self._window.size:
            self._fail(f"truncated: its weights need a file of {need} bytes, found {self._window.size}")
        return tuple(tensors)

    def _tensor(self) -> tuple[TensorInfo, int]:
        name = self._string("a tensor's name", MAX_NAME)
        rank = self._u32(f"tensor {name!r:.80}")
        if not 1 <= rank <= 4:
            self._fail(f"corrupt: tensor {name!r:.80} has {rank} dimensions")
        shape = self._window.unpack(struct.Struct(f"<{rank}Q"), f"tensor {name!r:.80}")
        kind, offset = self._window.unpack(_PLACE, f"tensor {name!r:.80}")
        return TensorInfo(name, shape, kind, self._weigh(name, shape, kind)), offset

    def _weigh(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        """Bytes of a tensor."""
        if kind not in BLOCKS:
            self._fail(f"tensor {name!r:.80} has the unknown type {kind}")
        rows = 1
        for dimension in shape[1:]:
            rows *= dimension
        if not 1 <= rows * shape[0] <= MAX_ELEMENTS:
            self._fail(f"absurd: tensor {name!r:.80} has the shape {shape}")
        if shape[0] % BLOCKS[kind].elements:
            self._fail(
                f"corrupt: rows of tensor {name!r:.80} are no multiple of {BLOCKS[kind].elements} long"
            )
        return BLOCKS[kind].row(shape[0]) * rows

    def _kind(self, key: str) -> ValueType:
        return self._known(self._u32(f"the type of {key!r}"), key)

    def _known(self, number: int, key: str) -> ValueType:
        try:
            return ValueType(number)
        except ValueError:
            self._fail(f"corrupt: the metadata key {key!r:.80} has the unknown type {number}")

    def _string(self, what: str, most: int) -> str:
        (length,) = self._window.unpack(_U64, what)
        if length > self._window.remaining:
            self._fail(self._window.shortage(length, f"{what:.120}"))
        self._kept += length
        if length > most or self._kept > MAX_KEPT_BYTES:
            self._fail(f"absurd: {what:.120} is {length} bytes long")
        return self._window.take(length, what).decode("utf-8", "replace")

    def _u32(self, what: str) -> int:
        value: int = self._window.unpack(_U32, what)[0]
        return value

    def _bound(self, count: int, most: int, least: int, what: str) -> None:
        if count > most:
            self._fail(f"absurd: it announces {count} {what}; at most {most} are read")
        if count * least > self._window.remaining:
            self._fail(self._window.shortage(count * least, f"{count} {what}"))


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
