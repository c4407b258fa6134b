"""
What a model remembers of a conversation: bytes by layer, from the numbers in its header.

The one rule: where a header or an architecture is not understood, the answer is the dense one, the largest.
Source: `llama_kv_cache`, `llama_kv_cache_iswa`, `llama_memory_recurrent`, `load_arch_hparams` of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.domain.models import EngineOptions, KvType
from router.sizing.ggml_types import BLOCKS, Block
from router.sizing.gguf import Header

PADDING = 256
"""llama.cpp pads the cells of every sequence to this."""

KV_BLOCKS: dict[KvType, Block] = {"f16": BLOCKS[1], "q8_0": BLOCKS[8], "q4_0": BLOCKS[2]}

# Bidirectional models and diffusion models attend to the whole batch and keep nothing.
_NO_CACHE = frozenset(
    (
        "bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "eurobert",
        "modern-bert",
        "gemma-embedding",
        "dream",
        "llada",
        "llada-moe",
        "rnd1",
        "wavtokenizer-dec",
    )
)
_RECURRENT = frozenset(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
_INTERVAL = frozenset(("qwen3next", "qwen35", "qwen35moe"))
"""One layer in `full_attention_interval` (default 4) attends; the others are recurrent."""


@dataclass(frozen=True, slots=True)
class _Sliding:
    """One layer in `period` sees everything: the last of each period, or the first."""

    period: int
    dense_first: bool = False
    window: int = 0
    """What llama.cpp takes when the file says nothing; 0 = then all layers see everything."""
    forced: bool = False
    """llama.cpp takes `window` whatever the file says."""


_SLIDING = {
    "gemma2": _Sliding(2, window=4096),
    "gemma3": _Sliding(6),
    "gemma3n": _Sliding(5),
    "cohere2": _Sliding(4),
    "cohere2moe": _Sliding(4, dense_first=True),
    "gpt-oss": _Sliding(2),
    "exaone-moe": _Sliding(4, window=128),
    "llama4": _Sliding(4, window=8192, forced=True),
    "olmo2": _Sliding(4),
    "afmoe": _Sliding(4),
    "mellum": _Sliding(4),
    "plamo3": _Sliding(8),
    "smallthinker": _Sliding(4, dense_first=True, window=4096, forced=True),
    "laguna": _Sliding(4, dense_first=True),
}
# These state the pattern by layer and have no default.
_SLIDING_BY_LAYER = frozenset(("gemma4", "mimo2", "step35", "granite_swa"))


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer that attends: elements that it keeps of every token."""

    key: int
    value: int
    window: int = 0
    """Tokens that it looks back; 0 = all."""


@dataclass(frozen=True, slots=True)
class Recurrent:
    """One layer with a state of fixed size: float32 elements by sequence."""

    state: int


Layer = tuple[Attention | Recurrent, ...]
"""What one layer keeps: nothing, one or (hybrid layers) both."""


def cells(options: EngineOptions, window: int = 0) -> int:
    """KV cells of all slots in a layer that looks back `window` tokens."""
    context = _padded(options.context)
    if window:
        context = min(context, _padded(min(context, window + options.ubatch)))
    return context * options.slots


def layer_bytes(layer: Layer, options: EngineOptions, *, windowed: bool = False) -> int:
    """
    Bytes that one layer keeps for all slots.

    `windowed=False`: sliding layers keep the whole context all the same, which is llama.cpp's default
    (`swa_full`) and lets a slot go back to an earlier prefix.
    """
    block = KV_BLOCKS[options.kv_type]
    total = 0
    for part in layer:
        if isinstance(part, Attention):
            total += cells(options, part.window if windowed else 0) * (
                block.row(part.key) + block.row(part.value)
            )
        else:
            total += part.state * 4 * options.slots
    return total


def layers(header: Header) -> tuple[Layer, ...]:
    """What each layer of the model keeps, first layer first."""
    count = header.number("block_count")
    if header.architecture in _NO_CACHE:
        return ((),) * count
    heads = by_layer(header, "attention.head_count", count, 0)
    kv_heads = by_layer(header, "attention.head_count_kv", count, None) or heads
    sliding = _sliding(header, count)
    recurrent = _recurrent(header, kv_heads)
    kept = _layers_with_cache(header, count)
    state = Recurrent(_state(header, max(heads, default=0)))
    return tuple(
        _layer(header, heads[0], kv_heads[il], sliding[il], recurrent[il], state) if il < kept else ()
        for il in range(count)
    )


def by_layer(header: Header, key: str, count: int, default: int | None) -> list[int]:
    """A value that is a number for all layers or an array of one each. No value and no default: []."""
    value = header.value(key)
    if isinstance(value, tuple) and len(value) >= count:
        return [int(item) if isinstance(item, int) and item >= 0 else 0 for item in value[:count]]
    if isinstance(value, int) and value >= 0:
        return [value] * count
    return [] if default is None else [default] * count


def _layer(
    header: Header, heads: int, kv_heads: int, window: int, recurrent: bool, state: Recurrent
) -> Layer:
    if header.architecture == "falcon-h1":
        return (_attention(header, heads, kv_heads, window), state)
    if recurrent:
        return (state,)
    return (_attention(header, heads, kv_heads, window),)


def _attention(header: Header, heads: int, kv_heads: int, window: int) -> Attention:
    plain = header.number("embedding_length") // heads if heads else 0
    key = header.number("attention.key_length", plain)
    value = header.number("attention.value_length", plain)
    if window:
        key = header.number("attention.key_length_swa", key)
        value = header.number("attention.value_length_swa", value)
    if header.number("attention.key_length_mla") and header.number("attention.value_length_mla"):
        # Latent attention: the values are read out of the keys. Sparse variants add the keys of an indexer.
        return Attention(key * kv_heads + header.number("attention.indexer.key_length"), 0, window)
    return Attention(key * kv_heads, value * kv_heads, window)


def _sliding(header: Header, count: int) -> list[int]:
    """The window of each layer; 0 = it sees everything."""
    architecture = header.architecture
    rule = _SLIDING.get(architecture)
    if rule is None and architecture not in _SLIDING_BY_LAYER and not _exaone4(header):
        return [0] * count
    rule = rule or _Sliding(4, window=4096 if _exaone4(header) else 0)
    stated = header.number("attention.sliding_window", rule.window)
    window = rule.window if rule.forced and stated else stated
    pattern = header.value("attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) >= count:
        return [window if slides else 0 for slides in pattern[:count]]
    if architecture in _SLIDING_BY_LAYER:
        return [0] * count
    period = header.number("attention.sliding_window_pattern", rule.period)
    dense = 0 if rule.dense_first else period - 1
    return [window if period == 0 or il % period != dense else 0 for il in range(count)]


def _exaone4(header: Header) -> bool:
    """Only its 64-layer size slides."""
    return header.architecture == "exaone4" and header.number("block_count") == 64


def _layers_with_cache(header: Header, count: int) -> int:
    """Layers from here on reuse the cache of earlier ones, or are never asked (multi-token prediction)."""
    if header.architecture == "gemma3n":
        return min(count, 20)
    if header.architecture == "gemma4":
        return count - min(count, header.number("attention.shared_kv_layers"))
    predicting = header.number("nextn_predict_layers")
    return count - predicting if 0 < predicting < count else count


def _recurrent(header: Header, kv_heads: list[int]) -> list[bool]:
    if header.architecture in _RECURRENT:
        return [True] * len(kv_heads)
    if header.architecture in _INTERVAL:
        interval = header.number("full_attention_interval", 4) or 4
        return [(il + 1) % interval != 0 for il in range(len(kv_heads))]
    return [heads == 0 for heads in kv_heads]


def _state(header: Header, heads: int) -> int:
    """Elements of the state of a recurrent layer; 0 where the architecture has none."""
    width = header.number("embedding_length")
    if size := header.number("wkv.head_size"):
        return width * (header.number("token_shift_count", 2) + size)
    if cache := header.number("shortconv.l_cache"):
        return width * (cache - 1)
    kernel = max(header.number("ssm.conv_kernel") - 1, 0)
    if size := header.number("kda.head_dim"):
        return (3 * (kernel or 3) + size) * size * heads
    inner, state = header.number("ssm.inner_size"), header.number("ssm.state_size")
    return kernel * (inner + 2 * header.number("ssm.group_count") * state) + state * inner


def _padded(count: int) -> int:
    return -(-count // PADDING) * PADDING
