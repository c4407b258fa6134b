"""
GGUF files of random weights, some 100 kB each: real to llama.cpp, and quick to load and run.

Their vocabulary is the 256 bytes, `<end>` and `<begin>`; the BERT one has a few words.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

END, BEGIN = 256, 257
WIDTH, HEADS, HIDDEN, LAYERS = 32, 2, 64, 2
_NORMAL, _CONTROL = 1, 3


def llama(
    path: Path,
    *,
    template: str | None = None,
    adds_bos: bool = False,
    adds_eos: bool = False,
    pooling: gguf.PoolingType = gguf.PoolingType.NONE,
    context: int = 2048,
    split: int = 0,
) -> Path:
    """A causal model with grouped attention; `split`: so many tensors a file."""
    writer = _Writer(path, "llama", context, split)
    writer.byte_vocabulary(adds_bos)
    writer.add_add_eos_token(adds_eos)
    if pooling is not gguf.PoolingType.NONE:
        writer.add_pooling_type(pooling)
    if template is not None:
        writer.add_chat_template(template)
    for block in writer.blocks():
        writer.attention(block)
        writer.norms(block, "attn_norm", "ffn_norm")
        writer.gated_ffn(block)
    return writer.finish()


def gemma3(path: Path, *, window: int, context: int = 2048) -> Path:
    """A causal model whose layers look back `window` tokens only."""
    writer = _Writer(path, "gemma3", context)
    writer.byte_vocabulary(adds_bos=False)
    writer.add_sliding_window(window)
    for block in writer.blocks():
        writer.attention(block)
        writer.norms(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        writer.norms(block, "attn_q_norm", "attn_k_norm", width=WIDTH // HEADS)
        writer.gated_ffn(block)
    return writer.finish()


def bert(path: Path, *, pooling: gguf.PoolingType = gguf.PoolingType.MEAN, context: int = 64) -> Path:
    """A model that reads in both directions and pools: it embeds and does not generate."""
    writer = _Writer(path, "bert", context)
    writer.word_vocabulary()
    writer.add_pooling_type(pooling)
    writer.add_causal_attention(False)
    writer.add_layer_norm_eps(1e-6)
    writer.tensor("token_types.weight", 2, WIDTH)
    writer.tensor("position_embd.weight", context, WIDTH)
    writer.norms("", "token_embd_norm", bias=True)
    for block in writer.blocks():
        writer.attention(block, bias=True, groups=1)
        writer.norms(block, "attn_output_norm", "layer_output_norm", bias=True)
        writer.linear(block, "ffn_up", HIDDEN, WIDTH, bias=True)
        writer.linear(block, "ffn_down", WIDTH, HIDDEN, bias=True)
    return writer.finish(output_norm=False)


def causal(path: Path, architecture: str, *, feeds: bool = True) -> Path:
    """What `llama` writes, under any name; `feeds`: with its feed-forward tensors."""
    writer = _Writer(path, architecture, 2048)
    writer.byte_vocabulary(adds_bos=False)
    for block in writer.blocks():
        writer.attention(block)
        writer.norms(block, "attn_norm", "ffn_norm")
        if feeds:
            writer.gated_ffn(block)
    return writer.finish()


class _Writer(gguf.GGUFWriter):
    def __init__(self, path: Path, architecture: str, context: int, split: int = 0) -> None:
        super().__init__(path, architecture, split_max_tensors=split)
        self._path = path
        self._random = np.random.default_rng(1)
        self.add_context_length(context)
        self.add_embedding_length(WIDTH)
        self.add_block_count(LAYERS)
        self.add_feed_forward_length(HIDDEN)
        self.add_head_count(HEADS)
        self.add_layer_norm_rms_eps(1e-6)

    def byte_vocabulary(self, adds_bos: bool) -> None:
        self.add_head_count_kv(1)
        self.add_tokenizer_model("gpt2")
        self.add_tokenizer_pre("default")
        self.add_token_list([*byte_letters(), "<end>", "<begin>"])
        self.add_token_types([_NORMAL] * 256 + [_CONTROL] * 2)
        self.add_token_merges(["Ġ Ġ"])
        self.add_eos_token_id(END)
        self.add_bos_token_id(BEGIN)
        self.add_add_bos_token(adds_bos)
        self.tensor("token_embd.weight", 258, WIDTH)

    def word_vocabulary(self) -> None:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁red", "▁green", "▁blue", "▁tree"]
        self.add_head_count_kv(HEADS)
        self.add_tokenizer_model("bert")
        self.add_token_list(words)
        self.add_token_types([_CONTROL] * 5 + [_NORMAL] * 4)
        self.add_token_type_count(2)
        self.add_pad_token_id(0)
        self.add_unk_token_id(1)
        self.add_bos_token_id(2)
        self.add_sep_token_id(3)
        self.add_eos_token_id(3)
        self.add_mask_token_id(4)
        self.tensor("token_embd.weight", len(words), WIDTH)

    def blocks(self) -> list[str]:
        return [f"blk.{number}." for number in range(LAYERS)]

    def attention(self, block: str, bias: bool = False, groups: int = HEADS) -> None:
        self.linear(block, "attn_q", WIDTH, WIDTH, bias)
        self.linear(block, "attn_k", WIDTH // groups, WIDTH, bias)
        self.linear(block, "attn_v", WIDTH // groups, WIDTH, bias)
        self.linear(block, "attn_output", WIDTH, WIDTH, bias)

    def gated_ffn(self, block: str) -> None:
        self.linear(block, "ffn_gate", HIDDEN, WIDTH)
        self.linear(block, "ffn_up", HIDDEN, WIDTH)
        self.linear(block, "ffn_down", WIDTH, HIDDEN)

    def linear(self, block: str, name: str, rows: int, columns: int, bias: bool = False) -> None:
        self.tensor(f"{block}{name}.weight", rows, columns)
        if bias:
            self.tensor(f"{block}{name}.bias", rows)

    def norms(self, block: str, *names: str, width: int = WIDTH, bias: bool = False) -> None:
        for name in names:
            self.add_tensor(f"{block}{name}.weight", np.ones(width, np.float32))
            if bias:
                self.tensor(f"{block}{name}.bias", width)

    def tensor(self, name: str, *shape: int) -> None:
        self.add_tensor(name, self._random.normal(0, 0.3, shape).astype(np.float32))

    def finish(self, output_norm: bool = True) -> Path:
        if output_norm:
            self.norms("", "output_norm")
        self.write_header_to_file()
        self.write_kv_data_to_file()
        self.write_tensors_to_file()
        self.close()
        return self._path


def byte_letters() -> list[str]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, others from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
