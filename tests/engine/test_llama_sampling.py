from __future__ import annotations

import numpy as np
import pytest

from router.domain.generation import SamplingParams
from router.engine.llama_log import llama
from router.engine.llama_sampling import LlamaSampler
from router.engine.sampling import chain

VOCABULARY = 8


def choose(logits: list[float], prompt: tuple[int, ...] = (), seed: int = 1, **params: object) -> int:
    """The token that the chain picks from these logits."""
    sampler = LlamaSampler(
        chain(SamplingParams(**params), seed, 64, ()), VOCABULARY, np.array(prompt, np.int32)
    )
    rows = (llama.llama_token_data * VOCABULARY)(*((i, logit, 0.0) for i, logit in enumerate(logits)))
    array = llama.llama_token_data_array(data=rows, size=VOCABULARY, selected=-1, sorted=False)
    try:
        llama.llama_sampler_apply(sampler.pointer, llama.ctypes.byref(array))
        return int(array.data[array.selected].id)
    finally:
        sampler.close()


RISING = [float(i) for i in range(VOCABULARY)]


def test_temperature_0_takes_the_largest() -> None:
    assert choose(RISING, temperature=0) == 7


def test_a_bias_moves_the_choice() -> None:
    assert choose(RISING, temperature=0, logit_bias=((2, 100.0),)) == 2
    assert choose(RISING, temperature=0, logit_bias=((7, -100.0),)) == 6


def test_a_repetition_in_the_prompt_is_punished() -> None:
    assert choose(RISING, prompt=(7,), temperature=0, repeat_penalty=2.0) == 6


def test_top_k_1_leaves_no_choice_at_any_temperature() -> None:
    assert {choose(RISING, seed=seed, temperature=2.0, top_k=1) for seed in range(20)} == {7}


def test_the_seed_decides_the_draw() -> None:
    flat = [1.0] * VOCABULARY
    draws = [choose(flat, seed=seed, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) for seed in range(40)]
    again = [choose(flat, seed=seed, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) for seed in range(40)]
    assert draws == again
    assert len(set(draws)) > 4


@pytest.mark.parametrize("times", [1, 2])
def test_a_chain_may_be_closed_twice(times: int) -> None:
    sampler = LlamaSampler(chain(SamplingParams(), 1, 64, ()), VOCABULARY, np.array([], np.int32))
    for _ in range(times):
        sampler.close()
    assert sampler.pointer is None
