from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from router.sizing.gguf import Header, TensorInfo, Value

WriteGguf = Callable[..., Path]
MakeHeader = Callable[..., Header]


def write(
    path: Path,
    *,
    architecture: str = "llama",
    fields: Mapping[str, object] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """A GGUF file as the reference writer makes it."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (fields or {}).items():
        add(writer, key, value)
    for name, array in (
        {"token_embd.weight": np.zeros((8, 32), "f4")} if tensors is None else tensors
    ).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int() if value < 0:
            writer.add_int32(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGguf:
    """write_gguf("name.gguf", architecture=..., fields=..., tensors=...) -> path"""
    return lambda name="model.gguf", **what: write(tmp_path / name, **what)


@pytest.fixture
def make_header() -> MakeHeader:
    """make_header(architecture, {"block_count": 2}, {"blk.0.attn_q.weight": bytes}) without a file"""

    def make(
        architecture: str = "llama",
        fields: Mapping[str, Value] | None = None,
        weights: Mapping[str, int] | None = None,
    ) -> Header:
        metadata: dict[str, Value] = {"general.architecture": architecture}
        metadata |= {f"{architecture}.{key}": value for key, value in (fields or {}).items()}
        tensors = [TensorInfo(name, (size // 4,), 0, size) for name, size in (weights or {}).items()]
        return Header((Path("m.gguf"),), metadata, tuple(tensors), sum(tensor.bytes for tensor in tensors))

    return make
