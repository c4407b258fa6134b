"""Requests and answers cross the process wall unchanged."""

from __future__ import annotations

import msgspec
import pytest

from router.domain.generation import (
    ChatPrompt,
    Delta,
    EmbeddingRequest,
    Embeddings,
    FinishReason,
    GenerationRequest,
    Message,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
    Usage,
)

VALUES = [
    GenerationRequest("1", ChatPrompt((Message("user", "Hi", "Ada"), Message("assistant", "")))),
    GenerationRequest("2", TextPrompt("Hi \x00 \U0001f600"), SamplingParams(seed=2**32 - 1, stop=("a",))),
    GenerationRequest("3", TokenPrompt((0, 5)), SamplingParams(logit_bias=((5, -100.0),), max_tokens=3)),
    Delta("Hi", 2),
    Delta(finish_reason=FinishReason.LENGTH, usage=Usage(1, 2, 3)),
    EmbeddingRequest("4", ("text", (1, 2))),
    Embeddings((b"\x00\x01\xff\xfe",), 1, 3),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_survives_the_wire(value: object) -> None:
    packed = msgspec.msgpack.encode(value)
    assert msgspec.msgpack.decode(packed, type=type(value)) == value


def test_finish_reasons_are_openais_words() -> None:
    assert {reason.value for reason in FinishReason} == {"stop", "length"}


def test_a_request_without_sampling_gets_llama_cpps_defaults() -> None:
    sampling = GenerationRequest("1", TextPrompt("x")).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.8, 40, 0.95, 0.05)
    assert (sampling.repeat_penalty, sampling.max_tokens, sampling.seed) == (1.0, None, None)
