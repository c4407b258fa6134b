"""
Engine options -> llama.cpp's parameters. The same for a load and a dry run: else the dry run would lie.

The one rule: every choice about memory or threads is made here and nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.domain.models import EngineOptions
from router.engine.batch import ModelRefused
from router.engine.llama_devices import pointers
from router.engine.llama_log import llama

_CANDIDATE_BYTES = 12
"""Of a `llama_token_data`: a sampler lays out one for every word of the vocabulary."""
_EMBEDDING_BYTES = 8 * 2**20
"""The logits of one embedding step; llama.cpp computes them for every row and keeps the buffer."""

_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}
_FLASH = {
    "auto": llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What a loaded model's metadata says about how it must be run."""

    vocabulary: int
    pools: bool
    """It has a pooling type of its own: it embeds whole inputs and does not generate."""
    causal: bool

    @property
    def whole(self) -> bool:
        """An input must be in one micro-batch: it is pooled or read in both directions."""
        return self.pools or not self.causal

    def output_bytes(self, options: EngineOptions, width: int) -> int:
        """
        The buffer of the results right after a load: a row of logits for every slot.

        `width`: elements of an embedding. Embedding with a model that generates makes it grow once.
        """
        return 4 * options.slots * (self.vocabulary + (width if self.whole else 0))

    def sampling_bytes(self, options: EngineOptions) -> int:
        """What the samplers of all slots take once they have sampled: 3 MiB each for 262,144 words."""
        return 0 if self.whole else _CANDIDATE_BYTES * options.slots * self.vocabulary

    def embedding_width(self, options: EngineOptions) -> int:
        """Tokens of one embedding step."""
        if self.whole:
            return options.context
        return max(1, min(options.ubatch, 64, _EMBEDDING_BYTES // (4 * self.vocabulary)))


def metadata(model: Any, key: str) -> str | None:
    """A scalar of the GGUF's metadata as text."""
    buffer = llama.ctypes.create_string_buffer(256)
    length = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return None if length < 0 else buffer.value.decode("utf-8", "replace")


def traits(model: Any) -> Traits:
    architecture = metadata(model, "general.architecture") or ""
    pooling = int(metadata(model, f"{architecture}.pooling_type") or llama.LLAMA_POOLING_TYPE_NONE)
    if pooling == llama.LLAMA_POOLING_TYPE_RANK:
        raise ModelRefused("This model ranks texts; it neither generates nor embeds, and is not served.")
    if llama.llama_model_has_encoder(model) and llama.llama_model_has_decoder(model):
        raise ModelRefused("An encoder-decoder model is not served.")
    causal = metadata(model, f"{architecture}.attention.causal") != "false"
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    return Traits(vocabulary, pooling != llama.LLAMA_POOLING_TYPE_NONE, causal)


def model_params(options: EngineOptions) -> Any:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    if options.devices:
        _place(params, options)
    return params


def _place(params: Any, options: EngineOptions) -> None:
    """Name the devices, so that llama.cpp touches no other: even an idle one would cost its CUDA context."""
    devices = pointers(options.devices)
    params.devices = llama.ctypes.cast(devices, llama.ctypes.c_void_p)
    # The arrays must live as long as the parameters that point to them.
    params.kept_alive = [devices]
    if len(devices) <= 2:  # one, and the null behind it
        params.split_mode, params.main_gpu = llama.LLAMA_SPLIT_MODE_NONE, 0
        return
    params.split_mode = llama.LLAMA_SPLIT_MODE_LAYER
    if options.split:
        shares = (llama.ctypes.c_float * max(llama.llama_max_devices(), len(options.split)))(*options.split)
        params.tensor_split = llama.ctypes.cast(shares, llama.ctypes.POINTER(llama.ctypes.c_float))
        params.kept_alive.append(shares)


def context_params(options: EngineOptions, traits: Traits) -> Any:
    if options.kv_type != "f16" and options.flash_attention == "off":
        raise ModelRefused(f"kv_type {options.kv_type} needs flash attention, which the options switch off.")
    params = llama.llama_context_default_params()
    params.n_ctx = options.context * options.slots
    params.n_seq_max = options.slots
    params.kv_unified = False
    # Sliding-window layers keep their window only; `keep` notices when a beginning can no longer be reused.
    params.swa_full = False
    width = options.context if traits.whole else max(options.ubatch, options.slots)
    params.n_batch = params.n_ubatch = min(width, options.context * options.slots)
    # Each output is a row of logits in the compute buffer: 48 MiB less for SmolLM2, and steady graphs.
    params.n_outputs_max = 0 if traits.whole else max(options.slots, traits.embedding_width(options))
    params.type_k = params.type_v = _KV_TYPES[options.kv_type]
    flash = "on" if options.kv_type != "f16" else options.flash_attention
    params.flash_attn_type = _FLASH[flash]
    params.embeddings = traits.whole
    params.n_threads = params.n_threads_batch = threads()
    params.no_perf = True
    return params


def threads(root: Path = Path("/")) -> int:
    """Physical cores that this process may use: affinity, hyper-threads and the cgroup's quota respected."""
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(root, cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(root) or len(cores)))


def _siblings(root: Path, cpu: int) -> str:
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


def _quota(root: Path) -> int | None:
    """Whole CPUs of cgroup v2's cpu.max, rounded up; None when there is no limit."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None
