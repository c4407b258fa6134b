"""
GGUF files of random weights in the shapes of real families, large enough to be weighed: some tens of MB.

Their vocabulary is the bytes of `tests.engine.tiny`, filled up with words nobody says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from tests.engine import tiny

Type = gguf.GGMLQuantizationType
Shape = Callable[[Path], Path]


def grouped(path: Path) -> Path:
    """Llama with four query heads to a key: a quarter of the cache."""
    writer = _Writer(path, "llama", layers=8, width=512, hidden=1536, words=32_000)
    writer.heads(16, 4, 32)
    for block in writer.blocks():
        writer.attention(block, 16 * 32, 4 * 32)
        writer.norms(block, "attn_norm", "ffn_norm")
        writer.feed_forward(block)
    return writer.finish()


def mixture(path: Path) -> Path:
    """Llama with eight experts, two of which see a token."""
    writer = _Writer(path, "llama", layers=6, width=512, hidden=768, words=16_000)
    writer.heads(8, 2, 64)
    writer.add_expert_count(8)
    writer.add_expert_used_count(2)
    for block in writer.blocks():
        writer.attention(block, 8 * 64, 2 * 64)
        writer.norms(block, "attn_norm", "ffn_norm")
        writer.tensor(f"{block}ffn_gate_inp", 8, 512, kind=Type.F32)
        for name, rows, columns in (("gate", 768, 512), ("up", 768, 512), ("down", 512, 768)):
            writer.tensor(f"{block}ffn_{name}_exps", 8, rows, columns)
    return writer.finish()


def latent(path: Path) -> Path:
    """DeepSeek 2: keys and values are read out of one latent vector, and experts share one."""
    rank, rope, nope, heads, query = 256, 32, 64, 8, 192
    writer = _Writer(path, "deepseek2", layers=5, width=512, hidden=1024, words=16_000)
    writer.heads(heads, 1, rank + rope, value=rank)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(64)
    writer.add_q_lora_rank(query)
    writer.add_kv_lora_rank(rank)
    writer.add_rope_dimension_count(rope)
    writer.add_leading_dense_block_count(1)
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    writer.add_expert_shared_count(1)
    writer.add_expert_feed_forward_length(256)
    for number, block in enumerate(writer.blocks()):
        writer.norms(block, "attn_norm", "ffn_norm")
        writer.norms(block, "attn_q_a_norm", width=query)
        writer.norms(block, "attn_kv_a_norm", width=rank)
        writer.tensor(f"{block}attn_q_a", query, 512)
        writer.tensor(f"{block}attn_q_b", heads * (nope + rope), query)
        writer.tensor(f"{block}attn_kv_a_mqa", rank + rope, 512)
        writer.tensor(f"{block}attn_k_b", heads, rank, nope)
        writer.tensor(f"{block}attn_v_b", heads, 64, rank)
        writer.tensor(f"{block}attn_output", 512, heads * 64)
        if number == 0:
            writer.feed_forward(block)
            continue
        writer.tensor(f"{block}ffn_gate_inp", 4, 512, kind=Type.F32)
        for name, rows, columns in (("gate", 256, 512), ("up", 256, 512), ("down", 512, 256)):
            writer.tensor(f"{block}ffn_{name}_exps", 4, rows, columns)
            writer.tensor(f"{block}ffn_{name}_shexp", rows, columns)
    return writer.finish()


def sliding(path: Path) -> Path:
    """Gemma 3: five layers of six look back 512 tokens; a large vocabulary that serves as output, too."""
    writer = _Writer(path, "gemma3", layers=12, width=512, hidden=1024, words=64_000, tied=True)
    writer.heads(4, 1, 128)
    writer.add_sliding_window(512)
    for block in writer.blocks():
        writer.attention(block, 4 * 128, 128)
        writer.norms(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        writer.norms(block, "attn_q_norm", "attn_k_norm", width=128)
        writer.feed_forward(block)
    return writer.finish()


class _Writer(gguf.GGUFWriter):
    def __init__(
        self,
        path: Path,
        architecture: str,
        *,
        layers: int,
        width: int,
        hidden: int,
        words: int,
        tied: bool = False,
    ) -> None:
        super().__init__(path, architecture)
        self._path, self._layers, self._width, self._hidden = path, layers, width, hidden
        self._random = np.random.default_rng(1)
        self.add_context_length(16_384)
        self.add_embedding_length(width)
        self.add_block_count(layers)
        self.add_feed_forward_length(hidden)
        self.add_layer_norm_rms_eps(1e-6)
        self._vocabulary(words)
        self.tensor("token_embd", words, width)
        if not tied:
            self.tensor("output", words, width)

    def _vocabulary(self, words: int) -> None:
        letters = tiny.byte_letters()
        rest = [f"<unused{number}>" for number in range(words - 258)]
        self.add_tokenizer_model("gpt2")
        self.add_tokenizer_pre("default")
        self.add_token_list([*letters, "<end>", "<begin>", *rest])
        self.add_token_types([1] * 256 + [3] * 2 + [1] * len(rest))
        self.add_token_merges(["Ġ Ġ"])
        self.add_eos_token_id(tiny.END)
        self.add_bos_token_id(tiny.BEGIN)

    def heads(self, count: int, groups: int, key: int, value: int | None = None) -> None:
        self.add_head_count(count)
        self.add_head_count_kv(groups)
        self.add_key_length(key)
        self.add_value_length(value or key)

    def blocks(self) -> list[str]:
        return [f"blk.{number}." for number in range(self._layers)]

    def attention(self, block: str, queries: int, keys: int) -> None:
        self.tensor(f"{block}attn_q", queries, self._width)
        self.tensor(f"{block}attn_k", keys, self._width)
        self.tensor(f"{block}attn_v", keys, self._width)
        self.tensor(f"{block}attn_output", self._width, queries)

    def feed_forward(self, block: str) -> None:
        self.tensor(f"{block}ffn_gate", self._hidden, self._width)
        self.tensor(f"{block}ffn_up", self._hidden, self._width)
        self.tensor(f"{block}ffn_down", self._width, self._hidden)

    def norms(self, block: str, *names: str, width: int | None = None) -> None:
        for name in names:
            self.add_tensor(f"{block}{name}.weight", np.ones(width or self._width, np.float32))

    def tensor(self, name: str, *shape: int, kind: Type = Type.Q8_0) -> None:
        values = self._random.normal(0, 0.05, shape).astype(np.float32)
        data = values if kind == Type.F32 else gguf.quants.quantize(values, kind)
        self.add_tensor(f"{name}.weight", data, raw_dtype=kind)

    def finish(self) -> Path:
        self.norms("", "output_norm")
        self.write_header_to_file()
        self.write_kv_data_to_file()
        self.write_tensors_to_file()
        self.close()
        return self._path
