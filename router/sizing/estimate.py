"""
How many bytes a model will take before anybody has loaded it: weights + KV cache + compute buffers + process.

The one rule: pure, and an upper bound where it cannot be exact. Weights and KV cache are llama.cpp's own
arithmetic; the compute buffers are bounded from above, because their size depends on the backend (a dry run
replaces them).
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from router.domain.models import EngineOptions, Footprint
from router.sizing import kv_cache
from router.sizing.gguf import Header, LongArray, TensorInfo, card

CUDA_PROCESS = 600 * 2**20
"""What a process holds on the device beside llama.cpp's buffers: 590 MiB were seen on an H100."""

CUDA_LIBRARIES = 256 * 2**20
"""What the same process holds of the host's memory for the driver's libraries."""
HOST_PROCESS = 48 * 2**20
"""Private memory of a worker beside llama.cpp's buffers; 39 MiB were seen, and 123 bytes a token of vocabulary."""
_BYTES_A_WORD = 160
HOST = "host"

# Head sizes that the fused attention kernels know; for others `auto` may fall back to plain attention.
_FUSED_HEADS = frozenset((40, 64, 72, 80, 96, 112, 128, 192, 256, 512, 576))
_LAYER_NAME = re.compile(r"blk\.(\d{1,3})\.")
# Looked up by row and never multiplied: llama.cpp keeps these on the host.
_INPUTS = frozenset(
    ("token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")
)
_MOST_OUTPUTS = 64
"""Rows of logits that the engine asks of one step (`n_outputs_max`), or one a slot if that is more."""
_SAMPLED = 4 + 12
"""Bytes a word and slot: its logit, and its place among the sampler's candidates."""
_HIDDEN_COPIES = 8
"""Activations as wide as the model that live at once: residual, norms, Q, K, V and their copies."""
_SMALL_BUFFERS = 4 * 2**20
"""Positions, indices, alignment."""


@dataclass(frozen=True, slots=True)
class _Shares:
    """Bytes of the weights by where they belong."""

    layers: tuple[int, ...]
    output: int
    """Includes the token embeddings where they serve as output, too."""
    inputs: int
    """Stays on the host, whatever is offloaded."""


def formula(header: Header, options: EngineOptions, *, windowed: bool = False) -> Footprint:
    """
    llama.cpp's buffers when all of them are in one memory, the host's; `gpu_layers` means nothing.

    `windowed`: whether sliding layers keep only their window (llama.cpp without `swa_full`).
    """
    kept = [kv_cache.layer_bytes(layer, options, windowed=windowed) for layer in kv_cache.layers(header)]
    weights = sum(tensor.bytes for tensor in header.tensors)
    logits = _vocabulary(header) * options.slots * _SAMPLED
    return Footprint(weights, sum(kept), _compute(header, options) + logits)


def footprints(header: Header, options: EngineOptions) -> dict[str, Footprint]:
    """
    By device name, of a model that is placed: `gpu_layers`, `devices` and `split` are resolved.

    Counted as the engine runs it: sliding layers keep their window only.
    """
    gpus = [device for device in options.devices if device != HOST]
    if not gpus or options.gpu_layers == 0:
        held = formula(header, options, windowed=True)
        return {HOST: Footprint(held.weights, held.kv_cache, held.compute, _process(header))}
    return _offloaded(header, options, gpus)


def _offloaded(header: Header, options: EngineOptions, gpus: Sequence[str]) -> dict[str, Footprint]:
    """As in llama.cpp, `gpu_layers` counts the output as a layer and takes the last ones first."""
    kept = [kv_cache.layer_bytes(layer, options, windowed=True) for layer in kv_cache.layers(header)]
    shares = _shares(header, len(kept))
    count = _on_device(options.gpu_layers, len(kept))
    first = len(kept) + 1 - count
    weights, cache = [0] * len(gpus), [0] * len(gpus)
    for layer in range(first, len(kept) + 1):
        place = _device_of((layer - first) / count, options.split, len(gpus))
        weights[place] += [*shares.layers, shares.output][layer]
        cache[place] += [*kept, 0][layer]
    compute, staging = _compute(header, options), _staging(shares, first, count)
    found = {
        gpu: Footprint(weights[n], cache[n], compute + (0 if n else staging), CUDA_PROCESS)
        for n, gpu in enumerate(gpus)
    }
    rest = sum(shares.layers[:first]) + shares.inputs
    at_hand = (compute if first else _carried(header, options)) + _vocabulary(
        header
    ) * options.slots * _SAMPLED
    found[HOST] = Footprint(rest, sum(kept[:first]), at_hand, _process(header) + CUDA_LIBRARIES)
    return found


def _device_of(position: float, split: Sequence[float], count: int) -> int:
    """llama.cpp's choice: the device whose share of the layers `position` (0 to 1) falls into."""
    ends = list(itertools.accumulate(split or [1.0] * count))
    return min(bisect.bisect_right([end / ends[-1] for end in ends], position), count - 1)


def _carried(header: Header, options: EngineOptions) -> int:
    """Host buffers of a model that is wholly on GPUs: embedded tokens, positions and masks."""
    tokens = max(options.ubatch, options.slots)
    context = kv_cache.cells(options) // options.slots
    return tokens * (header.number("embedding_length") * 4 + context * 6) + _SMALL_BUFFERS


def _process(header: Header) -> int:
    """Private memory of a worker that holds this model: most of what varies is the vocabulary."""
    words = header.metadata.get("tokenizer.ggml.tokens")
    count = words.length if isinstance(words, LongArray) else len(words) if isinstance(words, tuple) else 0
    return HOST_PROCESS + _BYTES_A_WORD * count


def _on_device(gpu_layers: int, count: int) -> int:
    """Layers on the device, the output among them: 0 to count + 1."""
    return count + 1 if gpu_layers < 0 else min(gpu_layers, count + 1)


def _shares(header: Header, count: int) -> _Shares:
    layers = [0] * count
    output = inputs = 0
    names = {tensor.name for tensor in header.tensors}
    for tensor in header.tensors:
        layer = _layer_of(tensor)
        if layer is not None and layer < count:
            layers[layer] += tensor.bytes
        elif tensor.name in _INPUTS:
            inputs += tensor.bytes
            if tensor.name == "token_embd.weight" and "output.weight" not in names:
                output += tensor.bytes
        else:
            output += tensor.bytes
    return _Shares(tuple(layers), output, inputs)


def _layer_of(tensor: TensorInfo) -> int | None:
    match = _LAYER_NAME.match(tensor.name)
    return int(match[1]) if match else None


def _staging(shares: _Shares, first: int, count: int) -> int:
    """Room for weights left on the host: for large batches they are copied to the device layer by layer."""
    waiting = [*shares.layers[:first], 0 if count else shares.output]
    return max(waiting)


def _compute(header: Header, options: EngineOptions) -> int:
    """
    Upper bound of the compute buffer.

    Logits of a micro-batch, or the scores of plain attention, whichever is larger (they do not live at once),
    and beside them the masks and the activations. A model that pools takes a whole input as one micro-batch.
    """
    pooled = card(header).pooled
    tokens = min(
        options.context if pooled else max(options.ubatch, options.slots), options.context * options.slots
    )
    outputs = tokens if pooled else min(tokens, max(options.slots, _MOST_OUTPUTS))
    context = kv_cache.cells(options) // options.slots
    heads = max(kv_cache.by_layer(header, "attention.head_count", _count(header), 0), default=0)
    logits = outputs * _vocabulary(header) * 4
    scores = 0 if _fused(header, options) else tokens * context * heads * 4
    masks = tokens * context * 6 * (2 if header.number("attention.sliding_window") else 1)
    return max(logits, scores) + masks + tokens * _activations(header) * 4 + _SMALL_BUFFERS


def _activations(header: Header) -> int:
    """Elements by token."""
    width = header.number("embedding_length")
    dense = max(kv_cache.by_layer(header, "feed_forward_length", _count(header), 0), default=0)
    experts = header.number("expert_used_count") * (header.number("expert_feed_forward_length") + width)
    state = header.number("ssm.inner_size") * 6
    return _HIDDEN_COPIES * width + 3 * max(dense, experts) + state


def _fused(header: Header, options: EngineOptions) -> bool:
    if options.flash_attention == "auto":
        heads = max(header.number("attention.head_count"), 1)
        size = header.number("attention.key_length", header.number("embedding_length") // heads)
        return size in _FUSED_HEADS
    return options.flash_attention == "on"


def _vocabulary(header: Header) -> int:
    """Tokens that the output layer scores; 0 for a model without one."""
    for name in ("output.weight", "token_embd.weight"):
        for tensor in header.tensors:
            if tensor.name == name:
                return tensor.shape[-1] if len(tensor.shape) > 1 else 0
    return 0


def _count(header: Header) -> int:
    return header.number("block_count")
