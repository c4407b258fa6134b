"""Files that are whole and well-formed GGUF, and that llama.cpp does not run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from tests.engine import tiny


def unknown(path: Path) -> Path:
    """An architecture that nobody knows."""
    return tiny.causal(path, "nosucharch")


def incomplete(path: Path) -> Path:
    """A llama without its feed-forward tensors."""
    return tiny.causal(path, "llama", feeds=False)


def adapter(path: Path) -> Path:
    """A LoRA adapter."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((32, 4), np.float32))
    return _finished(writer, path)


def projector(path: Path) -> Path:
    """The image half of a vision model (`mmproj`)."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 32), np.float32))
    return _finished(writer, path)


EVERY: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown": (unknown, "unknown model architecture: 'nosucharch'"),
    "incomplete": (incomplete, "tensor 'blk.0.ffn_gate.weight' not found"),
    "adapter": (adapter, "key not found in model: llama.context_length"),
    "projector": (projector, "CLIP cannot be used as main model"),
}
"""Name -> how it is made, and llama.cpp's own words for it."""


def _finished(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
