"""OpenAI's bodies: what is understood, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api.dialect import MAX_INPUTS, MAX_PROMPTS, MAX_TOKENS, ChatBody, CompletionBody, EmbeddingBody
from router.api.wire import decode
from router.domain.errors import InvalidRequest
from router.domain.generation import Message, TextPrompt, TokenPrompt

HI = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> ChatBody:
    return decode(json.dumps({"messages": HI, **fields}).encode(), ChatBody)


def completion(**fields: Any) -> CompletionBody:
    return decode(json.dumps({"prompt": "Hi", **fields}).encode(), CompletionBody)


def embedding(**fields: Any) -> EmbeddingBody:
    return decode(json.dumps(fields).encode(), EmbeddingBody)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "user", "content": "Hi"}, Message("user", "Hi")),
        ({"role": "user", "content": "Hi", "name": "Ada"}, Message("user", "Hi", "Ada")),
        ({"role": "developer", "content": "Be brief"}, Message("system", "Be brief")),
        ({"role": "assistant", "content": None}, Message("assistant", "")),
        ({"role": "assistant"}, Message("assistant", "")),
        ({"role": "tool", "content": "42", "tool_call_id": "x"}, Message("tool", "42")),
        ({"role": "user", "content": []}, Message("user", "")),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message("user", "a\nb"),
        ),
    ],
    ids=str,
)
def test_a_message_is_understood(turn: dict[str, Any], message: Message) -> None:
    assert chat(messages=[turn]).prompt().messages == (message,)


TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ([{"role": "king", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        (
            [*HI, {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}],
            "messages[1].content[1]",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "function", "name": "f", "content": "42"}], "messages[0].role"),
    ],
    ids=str,
)
def test_a_bad_message_is_named(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(messages=messages).prompt()
    assert refused.value.param == param


@pytest.mark.parametrize("content", [5, {"text": "x"}, ["x"], [{"text": "x"}]])
def test_content_of_a_wrong_type_is_refused(content: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(messages=[{"role": "user", "content": content}])
    assert (refused.value.param or "").startswith("messages")


@pytest.mark.parametrize(
    ("prompt", "understood"),
    [
        ("one", [TextPrompt("one")]),
        ("", [TextPrompt("")]),
        (["one", "two"], [TextPrompt("one"), TextPrompt("two")]),
        ([1, 2], [TokenPrompt((1, 2))]),
        ([[1], [2, 3]], [TokenPrompt((1,)), TokenPrompt((2, 3))]),
        (["one", [2]], [TextPrompt("one"), TokenPrompt((2,))]),
    ],
    ids=str,
)
def test_a_prompt_is_understood(prompt: Any, understood: list[Any]) -> None:
    assert list(completion(prompt=prompt).prompts()) == understood


@pytest.mark.parametrize(
    "prompt",
    [None, [], [[]], [1, "a"], [-1], [[2**40]], ["x"] * (MAX_PROMPTS + 1)],
    ids=lambda v: str(v)[:20],
)
def test_a_bad_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        completion(prompt=prompt).prompts()
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(
    ("given", "understood"),
    [("one", ("one",)), (["one", "two"], ("one", "two")), ([1, 2], ((1, 2),)), ([[1], [2]], ((1,), (2,)))],
    ids=str,
)
def test_an_input_is_understood(given: Any, understood: Any) -> None:
    assert embedding(input=given).inputs() == understood


@pytest.mark.parametrize(
    "given", [None, "", [], ["a", ""], [[]], [1, "a"], ["x"] * (MAX_INPUTS + 1)], ids=lambda v: str(v)[:20]
)
def test_a_bad_input_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        embedding(input=given).inputs()
    assert refused.value.param == "input"


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        embedding(input="x", encoding_format="int8").inputs()
    assert refused.value.param == "encoding_format"


def test_a_prompt_of_absurdly_many_tokens_is_refused_by_its_length() -> None:
    body = CompletionBody(prompt=[1] * (MAX_TOKENS + 1))
    with pytest.raises(InvalidRequest, match=str(MAX_TOKENS)):
        body.prompts()
