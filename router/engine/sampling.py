"""
How the next token is chosen, as values: a chain of stages for the backend to build.

The one rule: pure. Whatever passes `check` gives a chain that llama.cpp takes without an assertion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.domain.errors import InvalidRequest
from router.domain.generation import SamplingParams

MAX_STOPS = 32
MAX_STOP_CHARACTERS = 1024
MAX_BIASES = 4096
MAX_BIAS = 1e4
COLDEST = 1e-6
"""A lower temperature is greedy: a logit of some tens divided by it would leave the range of a float."""
_LLAMA_RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp draws its own seed when it sees this one."""


@dataclass(frozen=True, slots=True)
class LogitBias:
    pairs: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Penalties:
    last_n: int
    repeat: float
    frequency: float
    presence: float


@dataclass(frozen=True, slots=True)
class TopK:
    k: int


@dataclass(frozen=True, slots=True)
class TopP:
    p: float


@dataclass(frozen=True, slots=True)
class MinP:
    p: float


@dataclass(frozen=True, slots=True)
class Temperature:
    t: float


@dataclass(frozen=True, slots=True)
class Draw:
    seed: int


@dataclass(frozen=True, slots=True)
class Greedy:
    pass


Stage = LogitBias | Penalties | TopK | TopP | MinP | Temperature | Draw | Greedy


def chain(params: SamplingParams, seed: int, context: int, end_tokens: Sequence[int]) -> tuple[Stage, ...]:
    """The stages in order; the last one draws. `end_tokens` are what `ignore_eos` forbids."""
    stages: list[Stage] = []
    forbidden = tuple((token, -math.inf) for token in end_tokens) if params.ignore_eos else ()
    if pairs := params.logit_bias + forbidden:
        stages.append(LogitBias(pairs))
    greedy = params.temperature < COLDEST
    top_k = 1 if greedy else params.top_k
    if penalties := _penalties(params, context):
        stages += _before_penalties(penalties, top_k)
        stages.append(penalties)
    if greedy:
        return (*stages, Greedy())
    stages += [TopK(top_k)] if top_k else []
    stages += [TopP(params.top_p)] if params.top_p < 1 else []
    stages += [MinP(params.min_p)] if params.min_p > 0 else []
    return (*stages, Temperature(params.temperature), Draw(seed_32(seed)))


def _penalties(params: SamplingParams, context: int) -> Penalties | None:
    last_n = context if params.repeat_last_n < 0 else min(params.repeat_last_n, context)
    neutral = params.repeat_penalty == 1 and params.frequency_penalty == 0 and params.presence_penalty == 0
    if neutral or last_n == 0:
        return None
    return Penalties(last_n, params.repeat_penalty, params.frequency_penalty, params.presence_penalty)


def _before_penalties(penalties: Penalties, top_k: int) -> list[Stage]:
    """
    Penalties look at every candidate, 128k of them for 40 that matter. At most `last_n` tokens are lowered,
    so the k best after that are among the k + last_n best before. (Negative penalties raise: no short cut.)
    """
    lowers = penalties.repeat >= 1 and penalties.frequency >= 0 and penalties.presence >= 0
    return [TopK(top_k + penalties.last_n)] if lowers and top_k else []


def seed_32(seed: int) -> int:
    """Any integer folded to the 32 bits that llama.cpp takes, never the one that means random."""
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return 0 if folded == _LLAMA_RANDOM_SEED else folded


def check(params: SamplingParams, vocabulary: int) -> None:
    """Raises InvalidRequest, naming the field, for values that have no meaning or would abort llama.cpp."""
    for name, allowed, words in _RANGES:
        value = getattr(params, name)
        if not math.isfinite(value) or not allowed(value):
            raise InvalidRequest(f"{name} must be {words}, not {value}.", param=name)
    if params.max_tokens is not None and params.max_tokens < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, not {params.max_tokens}.", param="max_tokens")
    _check_stops(params.stop)
    _check_biases(params.logit_bias, vocabulary)


_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("temperature", lambda v: 0 <= v <= 100, "from 0 to 100"),
    ("top_k", lambda v: 0 <= v < 2**31, "0 or more"),
    ("top_p", lambda v: 0 <= v <= 1, "from 0 to 1"),
    ("min_p", lambda v: 0 <= v <= 1, "from 0 to 1"),
    ("repeat_penalty", lambda v: 0.01 <= v <= 100, "from 0.01 to 100"),
    ("repeat_last_n", lambda v: -1 <= v < 2**31, "-1 or more"),
    ("presence_penalty", lambda v: -100 <= v <= 100, "from -100 to 100"),
    ("frequency_penalty", lambda v: -100 <= v <= 100, "from -100 to 100"),
)


def _check_stops(stops: Sequence[str]) -> None:
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(
            f"stop holds {len(stops)} strings; at most {MAX_STOPS} are served.", param="stop"
        )
    if any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise InvalidRequest(f"A stop string may have {MAX_STOP_CHARACTERS} characters.", param="stop")


def _check_biases(pairs: Sequence[tuple[int, float]], vocabulary: int) -> None:
    if len(pairs) > MAX_BIASES:
        raise InvalidRequest(
            f"logit_bias holds {len(pairs)} tokens; at most {MAX_BIASES}.", param="logit_bias"
        )
    for token, bias in pairs:
        if not 0 <= token < vocabulary:
            raise InvalidRequest(
                f"logit_bias names token {token}; the vocabulary has {vocabulary} tokens.", param="logit_bias"
            )
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise InvalidRequest(
                f"logit_bias of token {token} is not between {-MAX_BIAS:g} and {MAX_BIAS:g}.",
                param="logit_bias",
            )
