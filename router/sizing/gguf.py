"""
A model as its GGUF header tells it: one file, or the parts of a split one, and the card made of it.

The one rule: no weight is read, and nothing that a file says is believed before it was bounded (`gguf_file`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.domain.models import ModelCard
from router.sizing.ggml_types import BLOCKS, FILE_TYPES
from router.sizing.gguf_file import GgufError, GgufFile, LongArray, TensorInfo, Value, read_file

__all__ = ["GgufError", "Header", "LongArray", "TensorInfo", "Value", "card", "read_header"]

MAX_LAYERS = 512
"""llama.cpp's own limit."""
MAX_PARTS = 9_999

_PART_NAME = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)
# Architectures that only embed, whether or not their file states a pooling type.
_EMBEDDERS = ("bert", "embed", "t5encoder")


@dataclass(frozen=True, slots=True)
class Header:
    """All parts of a model taken together; the metadata are the first part's."""

    files: tuple[Path, ...]
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    file_bytes: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    def value(self, key: str) -> Value | None:
        """The metadata value `<architecture>.<key>`."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int = 0) -> int:
        """The same, or `default` where it is missing, negative or no integer."""
        value = self.value(key)
        return value if isinstance(value, int) and value >= 0 else default


def read_header(path: Path) -> Header:
    """
    Read a model's header; of a split model, name the first part. Raises GgufError.

    Time and memory grow with the header, not with the file, and are bounded.
    """
    first = read_file(path)
    count = first.integer("split.count", 1)
    parts = [first, *_other_parts(first, count)] if count > 1 else [first]
    header = Header(
        files=tuple(part.path for part in parts),
        metadata=first.metadata,
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
        file_bytes=sum(part.size for part in parts),
    )
    _check_model(header)
    return header


def card(header: Header) -> ModelCard:
    """What people want to know of the model."""
    name = header.metadata.get("general.name")
    embedder = any(word in header.architecture for word in _EMBEDDERS)
    return ModelCard(
        architecture=header.architecture,
        name=name if isinstance(name, str) else "",
        quantization=_quantization(header),
        parameters=sum(tensor.elements for tensor in header.tensors),
        context_train=header.number("context_length"),
        file_bytes=header.file_bytes,
        layers=header.number("block_count"),
        pooled=embedder or header.number("pooling_type") > 0,
    )


def _quantization(header: Header) -> str:
    declared = header.metadata.get("general.file_type")
    if isinstance(declared, int) and declared in FILE_TYPES:
        return FILE_TYPES[declared]
    weights: Counter[int] = Counter()
    for tensor in header.tensors:
        weights[tensor.type] += tensor.elements
    return BLOCKS[weights.most_common(1)[0][0]].name if weights else "unknown"


def _other_parts(first: GgufFile, count: int) -> Iterator[GgufFile]:
    path = first.path
    match = _PART_NAME.fullmatch(path.name)
    if count > MAX_PARTS:
        raise GgufError(f"{path} is corrupt: it says that it is one of {count} parts.")
    if match is None or int(match["count"]) != count:
        raise GgufError(
            f"{path} is one of {count} parts, but its name does not end in -00001-of-{count:05}.gguf."
        )
    if first.integer("split.no", 0) != 0:
        name = f"{match['stem']}-00001-of-{count:05}.gguf"
        raise GgufError(f"{path} is not the first part of its model; name {name} instead.")
    for number in range(2, count + 1):
        yield _part(path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf"), number, count)


def _part(path: Path, number: int, count: int) -> GgufFile:
    if not path.exists():
        raise GgufError(f"Part {number} of {count} is missing: {path} does not exist.")
    part = read_file(path)
    if (part.integer("split.no", 0), part.integer("split.count", 1)) != (number - 1, count):
        raise GgufError(f"{path} does not hold part {number} of {count} of its model.")
    return part


def _check_model(header: Header) -> None:
    path = header.files[0]
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise GgufError(f"{path} is a GGUF file but not a model: it has no general.architecture.")
    if not header.tensors:
        raise GgufError(f"{path} holds no weights.")
    (name, times), *_ = Counter(tensor.name for tensor in header.tensors).most_common(1)
    if times > 1:
        raise GgufError(f"{path} is corrupt: the tensor {name!r:.80} appears {times} times.")
    announced = header.metadata.get("split.tensors.count", len(header.tensors))
    if announced != len(header.tensors):
        raise GgufError(f"{path} announces {announced} tensors; its parts hold {len(header.tensors)}.")
    layers = header.number("block_count")
    if layers > MAX_LAYERS:
        raise GgufError(f"{path} is corrupt: {layers} layers; llama.cpp loads at most {MAX_LAYERS}.")
