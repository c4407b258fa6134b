"""A directory with a registry and small GGUF files in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from router.domain.errors import RegistryInvalid
from router.registry import loader
from router.registry.loader import Registry
from router.sizing.devices import Device
from tests.sizing.conftest import write

HOST = Device("host", "cpu", 1_000_000_000, 900_000_000)
GPU = Device("gpu0", "cuda", 24 * 2**30, 23 * 2**30)


class Folder:
    """What an operator has: a registry file, model files beside it, a cache directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "registry.yaml"
        self.cache = root / "cache"

    def model(self, name: str = "a.gguf", context: int = 1000, file_type: int = 1, width: int = 32) -> Path:
        """A small file with one layer; `context` is the model's own, `width` makes it larger."""
        fields = {
            "llama.context_length": context,
            "llama.embedding_length": width,
            "llama.block_count": 1,
            "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 4,
            "llama.feed_forward_length": 64,
            "general.file_type": file_type,
        }
        tensors = {
            "token_embd.weight": np.zeros((8, width), "f4"),
            "blk.0.attn_q.weight": np.zeros((width, width), "f4"),
        }
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write(path, fields=fields, tensors=tensors)

    def write(self, text: str) -> Path:
        self.file.write_text(text)
        return self.file

    def load(self, text: str, devices: Sequence[Device] = (HOST,)) -> Registry:
        return loader.load(self.write(text), devices, self.cache)

    def problems(self, text: str, devices: Sequence[Device] = (HOST,)) -> list[str]:
        """The problems without the directory in front."""
        with pytest.raises(RegistryInvalid) as caught:
            self.load(text, devices)
        return self.short(caught.value.problems)

    def short(self, lines: Sequence[str]) -> list[str]:
        return [line.replace(f"{self.root}/", "") for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
