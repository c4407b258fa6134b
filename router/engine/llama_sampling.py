"""
Sampling stages -> a llama.cpp sampler chain.

The one rule: whoever makes a chain frees it; `close` may be called twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, assert_never

from router.engine.batch import Tokens
from router.engine.llama_log import llama
from router.engine.sampling import Draw, Greedy, LogitBias, MinP, Penalties, Stage, Temperature, TopK, TopP


class LlamaSampler:
    """One sequence's chain. Penalties have seen the end of the prompt, as llama.cpp's own server does it."""

    def __init__(self, stages: Iterable[Stage], vocabulary: int, prompt: Tokens) -> None:
        params = llama.llama_sampler_chain_default_params()
        params.no_perf = True
        self.pointer: Any = llama.llama_sampler_chain_init(params)
        seen = 0
        for stage in stages:
            llama.llama_sampler_chain_add(self.pointer, _build(stage, vocabulary))
            if isinstance(stage, Penalties):
                seen = stage.last_n
        for token in prompt[len(prompt) - min(seen, len(prompt)) :].tolist():
            llama.llama_sampler_accept(self.pointer, token)

    def close(self) -> None:
        pointer, self.pointer = self.pointer, None
        if pointer is not None:
            llama.llama_sampler_free(pointer)


def _build(stage: Stage, vocabulary: int) -> Any:
    match stage:
        case LogitBias(pairs):
            biases = (llama.llama_logit_bias * len(pairs))(*pairs)
            return llama.llama_sampler_init_logit_bias(vocabulary, len(pairs), biases)
        case Penalties(last_n, repeat, frequency, presence):
            return llama.llama_sampler_init_penalties(vocabulary, last_n, repeat, frequency, presence)
        case TopK(k):
            return llama.llama_sampler_init_top_k(k)
        case TopP(p):
            return llama.llama_sampler_init_top_p(p, 1)
        case MinP(p):
            return llama.llama_sampler_init_min_p(p, 1)
        case Temperature(t):
            return llama.llama_sampler_init_temp(t)
        case Draw(seed):
            return llama.llama_sampler_init_dist(seed)
        case Greedy():
            return llama.llama_sampler_init_greedy()
        case _:
            assert_never(stage)
