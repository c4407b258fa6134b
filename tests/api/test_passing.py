"""What of a body goes on to an upstream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api import wire
from router.api.dialect import ChatBody, EmbeddingBody
from router.api.house import Record
from router.api.passing import passed_on, stays
from router.cloud.calls import CloudCall
from router.domain.errors import InvalidRequest
from router.registry.loader import Key


def call(**body: Any) -> CloudCall:
    raw = json.dumps({"model": "m", "messages": [], **body}).encode()
    return passed_on("chat/completions", raw, wire.decode(raw, ChatBody), Record(key=Key("al", "", ("*",))))()


def test_everything_goes_on_also_what_local_models_cannot_do() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    found = call(tools=tools, anything={"deep": [1, None, "\u00e4"]}, stream=True)
    assert found.body["tools"] == tools
    assert found.body["anything"] == {"deep": [1, None, "\u00e4"]}
    assert (found.path, found.stream, found.caller) == ("chat/completions", True, "al")


def test_what_metadata_said_to_us_does_not_go_on() -> None:
    assert "metadata" not in call(metadata={"accuracy": "high"}).body
    assert call(metadata={"accuracy": "high", "user": "3"}).body["metadata"] == {"user": "3"}
    assert call(metadata=["accuracy"]).body["metadata"] == ["accuracy"]


def test_the_limit_of_an_answer_is_the_clients() -> None:
    assert call().max_tokens is None
    assert call(max_tokens=5).max_tokens == 5
    assert call(max_tokens=5, max_completion_tokens=7).max_tokens == 7


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [0, -1, -(10**9)])
def test_a_limit_below_one_would_make_the_worst_case_cheap_and_is_refused(name: str, limit: int) -> None:
    with pytest.raises(InvalidRequest):
        call(**{name: limit})


def test_without_keys_nobody_is_the_caller() -> None:
    raw = b'{"model": "m", "input": "x"}'
    found = passed_on("embeddings", raw, wire.decode(raw, EmbeddingBody), Record())()
    assert (found.caller, found.stream, found.max_tokens) == (None, False, None)


def test_what_stays_cannot_be_called() -> None:
    with pytest.raises(RuntimeError):
        stays()
