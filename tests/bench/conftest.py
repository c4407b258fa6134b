from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy
import pytest


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a GGUF of a few kilobytes: the echo backend does not read it, the registry does."""

    def write(name: str) -> Path:
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        writer.add_context_length(4096)
        writer.add_block_count(1)
        writer.add_embedding_length(32)
        writer.add_head_count(2)
        writer.add_tensor("token_embd.weight", numpy.zeros((64, 32), numpy.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / f"{name}.gguf"

    return write
