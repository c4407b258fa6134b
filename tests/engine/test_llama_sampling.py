"""Chains applied to logits of our own, where the right token is known."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from router.domain.generation import SamplingParams
from router.engine.llama_log import llama
from router.engine.llama_sampling import LlamaSampler
from router.engine.sampling import chain

VOCABULARY = 6


def drawn(
    logits: list[float], times: int = 1, prompt: tuple[int, ...] = (), accept: bool = False, **params: object
) -> list[int]:
    """What the chain of these parameters chooses, again and again."""
    stages = chain(SamplingParams(**params), int(params.get("seed", 1)), 100, (5,))
    sampler = LlamaSampler(stages, VOCABULARY, np.array(prompt, np.int32))
    tokens = []
    for _ in range(times):
        data = (llama.llama_token_data * VOCABULARY)(*((i, logit, 0.0) for i, logit in enumerate(logits)))
        candidates = llama.llama_token_data_array(data, VOCABULARY, -1, False)
        llama.llama_sampler_apply(sampler.pointer, llama.ctypes.byref(candidates))
        tokens.append(candidates.data[candidates.selected].id)
        if accept:
            llama.llama_sampler_accept(sampler.pointer, tokens[-1])
    sampler.close()
    return tokens


def test_temperature_zero_takes_the_best():
    assert drawn([0, 1, 9, 2, 3, 4], 5, temperature=0.0) == [2] * 5


@pytest.mark.parametrize(
    "odd",
    [
        {"temperature": 1e-38}, {"temperature": 5e-324}, {"temperature": 9e-7}, {"temperature": 1e-6},
        {"top_p": 0.0}, {"top_p": 1e-38}, {"min_p": 1.0}, {"top_k": 1}, {"temperature": 100.0, "top_k": 1},
        {"temperature": 1e-6, "logit_bias": ((2, 1e4),)}, {"temperature": 1e-38, "repeat_penalty": 100.0},
        {"temperature": 1e-6, "frequency_penalty": 100.0, "presence_penalty": 100.0, "repeat_last_n": -1},
        {"logit_bias": ((2, 1e4), (0, -1e4))},
    ],
    ids=str,
)  # fmt: skip
def test_at_the_edges_of_what_may_be_asked_the_best_is_taken(odd):
    """Logits as a model of a large vocabulary has them: what overflows makes all of them alike, or none a number."""
    neutral = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
    assert drawn([31.2, 31.1, 45.0, -20.0, 12.0, -45.0], 50, prompt=(0, 1), **{**neutral, **odd}) == [2] * 50


def test_the_same_seed_draws_the_same_tokens():
    flat = [0.0] * 6
    assert drawn(flat, 30, seed=3) == drawn(flat, 30, seed=3) != drawn(flat, 30, seed=4)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    probabilities = [0.5, 0.3, 0.2]
    logits = [*map(math.log, probabilities), *[-1e9] * 3]
    counts = Counter(drawn(logits, 4000, temperature=1.0, top_p=1.0, min_p=0.0))
    assert [counts[token] / 4000 for token in range(3)] == pytest.approx(probabilities, abs=0.04)


def test_top_k_leaves_the_best_k():
    assert set(drawn([5, 4, 3, 2, 1, 0], 300, temperature=100.0, top_k=2, top_p=1.0, min_p=0.0)) == {0, 1}


def test_top_p_leaves_the_likely():
    logits = [math.log(p) for p in (0.6, 0.3, 0.05, 0.03, 0.01, 0.01)]
    assert set(drawn(logits, 300, temperature=1.0, top_p=0.8, min_p=0.0)) == {0, 1}


def test_min_p_leaves_what_is_near_the_best():
    logits = [math.log(p) for p in (0.5, 0.3, 0.1, 0.05, 0.03, 0.02)]
    assert set(drawn(logits, 300, temperature=1.0, top_p=1.0, min_p=0.5)) == {0, 1}


def test_a_bias_lifts_a_token_over_all_others():
    assert drawn([9, 0, 0, 0, 0, 0], temperature=0.0, logit_bias=((3, 100.0),)) == [3]


def test_an_ignored_end_is_never_drawn():
    assert drawn([0, 0, 0, 0, 1, 9], temperature=0.0) == [5]
    assert drawn([0, 0, 0, 0, 1, 9], temperature=0.0, ignore_eos=True) == [4]
    assert 5 not in drawn([0, 0, 0, 0, 0, 9], 200, temperature=1.0, ignore_eos=True)


def test_a_repeat_penalty_lowers_what_the_prompt_says():
    logits = [2.0, 3.0, 1.0, 0, 0, 0]
    assert drawn(logits, temperature=0.0, repeat_penalty=2.0, prompt=(1,)) == [0]
    assert drawn(logits, temperature=0.0, repeat_penalty=2.0, prompt=()) == [1]


def test_penalties_look_back_only_so_far():
    logits = [2.0, 3.0, 1.0, 0, 0, 0]
    assert drawn(logits, temperature=0.0, repeat_penalty=2.0, repeat_last_n=2, prompt=(1, 4, 4)) == [1]


def test_penalties_count_what_was_said():
    logits = [3.0, 2.9, 2.8, 0, 0, 0]
    assert drawn(logits, 4, accept=True, temperature=0.0, presence_penalty=0.5) == [0, 1, 2, 0]
    assert drawn(logits, 5, accept=True, temperature=0.0, frequency_penalty=1.0) == [0, 1, 2, 0, 1]


def test_closing_twice_is_harmless():
    sampler = LlamaSampler(chain(SamplingParams(), 1, 100, ()), VOCABULARY, np.array([1], np.int32))
    sampler.close()
    sampler.close()
