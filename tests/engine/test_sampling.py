from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.errors import InvalidRequest
from router.domain.generation import SamplingParams
from router.engine.sampling import (
    MAX_BIASES,
    MAX_STOPS,
    Draw,
    Greedy,
    LogitBias,
    MinP,
    Penalties,
    Temperature,
    TopK,
    TopP,
    chain,
    check,
    seed_32,
)


def stages(seed: int = 7, end_tokens: tuple[int, ...] = (), **params: object) -> tuple:
    return chain(SamplingParams(**params), seed, 1000, end_tokens)


def test_the_default_chain_has_top_k_first():
    assert stages() == (TopK(40), TopP(0.95), MinP(0.05), Temperature(0.8), Draw(7))


def test_neutral_values_leave_their_stage_out():
    assert stages(top_k=0, top_p=1.0, min_p=0.0) == (Temperature(0.8), Draw(7))


def test_temperature_zero_is_greedy_and_still_biased_and_penalised():
    assert stages(temperature=0.0) == (Greedy(),)
    assert stages(temperature=0.0, logit_bias=((5, 2.0),), repeat_penalty=1.5) == (
        LogitBias(((5, 2.0),)),
        TopK(65),
        Penalties(64, 1.5, 0.0, 0.0),
        Greedy(),
    )


@pytest.mark.parametrize("temperature", [1e-38, 5e-324, 9.9e-7])
def test_a_temperature_by_which_no_logit_can_be_divided_is_greedy(temperature):
    assert stages(temperature=temperature, top_k=0) == (Greedy(),)
    assert stages(temperature=1e-6)[-2:] == (Temperature(1e-6), Draw(7))


def test_penalties_see_only_candidates_that_can_still_win():
    assert stages(presence_penalty=0.5, top_k=10)[:3] == (TopK(74), Penalties(64, 1.0, 0.0, 0.5), TopK(10))


def test_penalties_that_raise_logits_see_every_candidate():
    assert stages(presence_penalty=-0.5)[:2] == (Penalties(64, 1.0, 0.0, -0.5), TopK(40))


def test_penalties_over_no_tokens_are_none():
    assert stages(repeat_penalty=1.5, repeat_last_n=0) == stages()


def test_penalties_reach_back_to_the_context_at_most():
    for last_n in (-1, 10**6):
        assert Penalties(1000, 1.5, 0.0, 0.0) in stages(repeat_penalty=1.5, repeat_last_n=last_n)


def test_ignore_eos_forbids_every_end_token():
    biased = stages(end_tokens=(1, 2), ignore_eos=True)[0]
    assert biased == LogitBias(((1, -math.inf), (2, -math.inf)))
    assert LogitBias not in map(type, stages(end_tokens=(1, 2)))


@given(st.integers(-(2**70), 2**70))
def test_any_seed_folds_to_32_bits_and_never_means_random(seed):
    assert 0 <= seed_32(seed) < 0xFFFFFFFF


def test_small_seeds_stay_what_they_are():
    assert [seed_32(seed) for seed in (0, 1, 42)] == [0, 1, 42]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("top_k", -1),
        ("top_k", 2**31), ("top_p", 1.1), ("top_p", -0.1), ("min_p", 2.0), ("repeat_penalty", 0.0),
        ("repeat_penalty", -1.0), ("repeat_last_n", -2), ("presence_penalty", math.inf),
        ("frequency_penalty", 101.0), ("max_tokens", 0), ("max_tokens", -5),
        ("stop", ("x",) * (MAX_STOPS + 1)), ("stop", ("x" * 2000,)),
        ("logit_bias", ((10, 1.0),)), ("logit_bias", ((-1, 1.0),)), ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((1, 1.0),) * (MAX_BIASES + 1)), ("logit_bias", ((1, 1e39),)), ("repeat_penalty", 1e-38),
    ],
)  # fmt: skip
def test_a_value_without_meaning_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequest) as error:
        check(SamplingParams(**{field: value}), vocabulary=10)
    assert error.value.param == field


def test_the_defaults_and_the_edges_are_fine():
    check(SamplingParams(), 10)
    check(SamplingParams(temperature=0, top_p=0, min_p=1, repeat_last_n=-1, max_tokens=1), 10)
    check(SamplingParams(logit_bias=((0, -100.0), (9, 100.0)), stop=("a",) * MAX_STOPS), 10)
