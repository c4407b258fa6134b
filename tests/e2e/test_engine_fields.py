"""Fields and prompts at their edges, sent to a real gateway over a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai import BadRequestError

from tests.e2e.conftest import Start
from tests.e2e.gateway import Gateway

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]
CONTEXT = 512


@pytest.fixture
def gateway(start: Start, demo_models: dict[str, Path]) -> Gateway:
    return start(
        models={"a": {"path": str(demo_models["q8_0"]), "context": CONTEXT, "slots": 2}}, budget="1GiB"
    )


def complete(gateway: Gateway, prompt: object = "Once upon a time", **body: object) -> dict[str, object]:
    response = gateway.http.post("/v1/completions", json={"model": "a", "prompt": prompt, **body})
    return {"status": response.status_code, **response.json()}


def said(gateway: Gateway, **body: object) -> str:
    answer = complete(gateway, **{"max_tokens": 12, **body})
    assert answer["status"] == 200, answer
    return str(answer["choices"][0]["text"])  # type: ignore[index]


def test_fields_at_their_edges(gateway: Gateway) -> None:
    greedy = said(gateway, temperature=0)
    extremes = {"top_k": 0, "top_p": 1, "min_p": 0}
    for odd in (
        {"temperature": 1e-38},
        {"temperature": 9e-7, **extremes},
        {"temperature": 1e-38, **extremes},
    ):
        assert said(gateway, **odd, seed=1) == greedy
    for cold in ({"top_p": 0}, {"min_p": 1}, {"temperature": 2e-6, **extremes}, {"top_k": 1}):
        assert said(gateway, **cold, seed=1) == greedy
    for odd in (
        {"top_k": -1},
        {"repeat_penalty": 0.01},
        {"frequency_penalty": -2, "repeat_last_n": 65536},
        {"seed": -1},
    ):
        assert said(gateway, **odd)

    assert said(gateway, temperature=0, stop=[""]) == greedy
    stopped = said(gateway, temperature=0, stop=["", greedy[5:8]])
    assert stopped == greedy[: greedy.index(greedy[5:8])]

    texts, cached = set(), set()
    for _ in range(6):
        complete(gateway, "Once upon a time there was " * 3, max_tokens=3)  # something else in the slots
        answer = complete(
            gateway, "Once upon a time there was a little", seed=5, max_tokens=16, cache_prompt=False
        )
        texts.add(answer["choices"][0]["text"])  # type: ignore[index]
        cached.add(answer["usage"]["prompt_tokens_details"]["cached_tokens"])  # type: ignore[index]
    assert (len(texts), cached) == (1, {0})


def test_an_alias_does_what_its_field_does(gateway: Gateway) -> None:
    loop = {"prompt": "one two one two one two one two", "temperature": 0, "max_tokens": 16}
    penalised = said(gateway, **loop, repeat_penalty=1.8)
    assert said(gateway, **loop, repetition_penalty=1.8) == penalised != said(gateway, **loop)
    usage = complete(gateway, n_predict=3, ignore_eos=True)["usage"]
    assert isinstance(usage, dict) and usage["completion_tokens"] == 3


def test_a_prompt_of_exactly_the_context_says_what_would_fit(gateway: Gateway) -> None:
    assert complete(gateway, [1] * (CONTEXT - 1), max_tokens=1)["status"] == 200
    error = complete(gateway, [1] * CONTEXT)["error"]
    assert isinstance(error, dict)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"
    assert (
        f"length is {CONTEXT} tokens. However, 'prompt' resulted in {CONTEXT} tokens. At most {CONTEXT - 1} fit"
        in error["message"]
    )
    error = complete(gateway, [[1, 2], [1] * CONTEXT], max_tokens=1)["error"]
    assert isinstance(error, dict) and error["param"] == "prompt[1]"
    with pytest.raises(BadRequestError, match=r"'input\[2\]' resulted in") as caught:
        gateway.openai.embeddings.create(model="a", input=["a", "b", "word " * 600])
    assert caught.value.param == "input[2]"
    with pytest.raises(BadRequestError, match="your messages resulted in"):
        gateway.openai.chat.completions.create(
            model="a", messages=[{"role": "user", "content": "word " * 600}]
        )


def test_a_lone_surrogate_is_named(gateway: Gateway) -> None:
    body = json.dumps({"model": "a", "prompt": "half a smile: \ud83d"})
    response = gateway.http.post("/v1/completions", content=body)
    assert response.status_code == 400
    assert r"\ud83d is a lone surrogate" in response.json()["error"]["message"]
