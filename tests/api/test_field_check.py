"""Which field of a body a local model would have to refuse, and how many nobody knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api.field_check import FieldCheck, check
from router.api.field_kinds import Endpoint
from router.domain.errors import InvalidRequest, Unsupported


def checked(endpoint: Endpoint = "chat", **fields: Any) -> FieldCheck:
    return check(json.dumps({"model": "a", "messages": [], **fields}).encode(), endpoint)


def param(**fields: Any) -> str | None:
    try:
        checked(**fields).refuse()
    except Unsupported as refused:
        return refused.param
    return None


@pytest.mark.parametrize("nothing", [None, "", [], {}, False, [[]], {"json": None, "regex": ""}], ids=str)
def test_what_is_empty_asks_for_nothing(nothing: object) -> None:
    assert param(structured_outputs=nothing) is None


def test_false_asks_for_something_where_true_is_what_is_done() -> None:
    assert param(skip_special_tokens=True) is None
    assert param(skip_special_tokens=False) == "skip_special_tokens"


def test_numbers_are_compared_as_numbers_and_true_is_none() -> None:
    assert param(n=1.0, length_penalty=1, mirostat=0.0) is None
    assert param(n=True) == "n"


def test_a_field_can_be_switched_off_by_another_one() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert param(tools=tools) == "tools"
    assert param(tools=tools, tool_choice="none") is None
    assert param(tools=tools, tool_choice="auto") == "tools"
    assert param(functions=[{"name": "f"}], function_call="none") is None


def test_a_field_inside_is_named_with_its_place() -> None:
    assert param(stream_options={"continuous_usage_stats": True}) == "stream_options.continuous_usage_stats"
    assert param(stream_options={"continuous_usage_stats": False, "include_usage": True}) is None
    assert param(stream_options=None) is None


def test_the_first_of_the_table_is_named_and_the_message_says_what_is_accepted() -> None:
    refused = checked(verbosity="low", min_tokens=3)
    with pytest.raises(Unsupported, match=r"'min_tokens' is not supported by local models \(only 0\)\."):
        refused.refuse()


def test_a_long_value_is_not_read() -> None:
    assert param(grammar=[[]] * 1000) == "grammar"


def test_what_no_schema_has_is_counted_by_endpoint() -> None:
    assert checked(user="x", future=1, more=2).unknown == 2
    assert checked("embeddings", input="x", temperature=1, top_k=1).unknown == 2
    assert checked(**{"messages[].role": 1}).unknown == 1


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        check(b'{"\xff": 1}', "chat")


def test_bytes_that_are_no_text_ask_for_something() -> None:
    with pytest.raises(Unsupported):
        check(b'{"grammar": "\xff"}', "chat").refuse()
