"""Where an upstream's event ends, and what it says."""

from __future__ import annotations

import msgspec
import pytest

from router.cloud.events import BadAnswer, Facts, Splitter, data_of, facts_of
from router.domain.generation import Usage

STREAM = b': hi\n\ndata: {"a": 1}\n\nevent: x\r\ndata: 2\r\n\r\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_come(size: int) -> None:
    splitter = Splitter()
    found = [event for at in range(0, len(STREAM), size) for event in splitter.feed(STREAM[at : at + size])]
    assert b"".join(found) == STREAM
    assert [data_of(event) for event in found] == [None, b'{"a": 1}', b"2", b"[DONE]"]
    assert splitter.rest == b""


def test_an_event_without_an_end_stays_as_rest() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: 1\n\ndata: 2\n") == [b"data: 1\n\n"]
    assert splitter.rest == b"data: 2\n"


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 6, b"x" * 6], [b"x" * 20 + b"\n\n"]])
def test_an_event_that_is_too_long_is_refused(parts: list[bytes]) -> None:
    splitter = Splitter(most=10)
    with pytest.raises(BadAnswer, match="more than 10 bytes"):
        for part in parts:
            splitter.feed(part)


def test_lines_may_end_in_a_carriage_return_alone() -> None:
    assert Splitter().feed(b"data: 1\r\rdata: 2\r\r") == [b"data: 1\r\r", b"data: 2\r\r"]
    assert data_of(b"event: x\rdata: 1\rdata: 2\r\r") == b"1\n2"


def test_an_event_without_data_says_nothing() -> None:
    assert data_of(b"data:\n\n") is None
    assert data_of(b"event: ping\n\n") is None
    assert data_of(b"data:  \n\n") is None


def test_data_of_several_lines_is_joined() -> None:
    assert data_of(b"data: a\ndata:b\nid: 7\n\n") == b"a\nb"


def test_what_is_known_is_read() -> None:
    data = b"""{"model": "m", "choices": [{"index": 0, "finish_reason": "stop", "delta": {}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}}"""
    assert facts_of(data) == Facts(Usage(10, 2, 3), "stop", "m", None, 1, ended=(0,))


def test_a_usage_that_tells_only_half_is_none() -> None:
    assert facts_of(b'{"choices": [{}], "usage": {"prompt_tokens": 10}}').usage is None
    assert facts_of(b'{"choices": [], "usage": {"prompt_tokens": 10}}').usage is None


def test_the_words_of_an_answer_are_counted_wherever_they_are() -> None:
    tool = '{"index": 0, "id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}'
    choices = f"""[{{"index": 1, "delta": {{"role": "assistant", "content": "äb", "thoughts": ["cd"]}}}},
        {{"index": 2, "delta": {{"tool_calls": [{tool}]}}, "logprobs": {{"content": [{{"token": "x"}}]}}}},
        {{"index": 3, "text": "", "finish_reason": "stop"}}]"""
    facts = facts_of(f'{{"choices": {choices}}}'.encode())
    assert (facts.choices, facts.words, facts.spoke, facts.ended) == (3, 8, (1, 2), (3,))
    odd = facts_of(b'{"choices": [{"delta": {"content": "abc"}, "finish_reason": 7}]}')
    assert (odd.words, odd.spoke) == (3, (0,))


BLOB = "A" * 10_000


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BLOB}"}}]}, 0),
        (
            {"content": [{"type": "image_url", "image_url": {"url": BLOB}}, {"type": "text", "text": "abc"}]},
            3,
        ),
        ({"audio": {"id": "a", "data": BLOB}}, 0),
        ({"content": "abc", "annotations": [{"url_citation": {"url": BLOB, "content": BLOB}}]}, 3),
        ({"content": "abc", "extra_content": {"google": {"thought_signature": BLOB}}}, 3),
        ({"reasoning_details": [{"text": "abc", "signature": BLOB}, {"data": BLOB}, {"summary": "de"}]}, 5),
        ({"reasoning": "abc", "reasoning_content": "abc", "reasoning_details": [{"text": "abc"}]}, 3),
        ({"thinking_blocks": [{"thinking": "abc", "signature": BLOB}], "reasoning_content": "abc"}, 3),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "abc"}]}]}, 3),
        ({"function_call": {"name": "f", "arguments": "{}"}, "refusal": "no"}, 5),
        ({"tool_calls": [{"custom": {"name": "f", "input": "x"}, "extra": BLOB}]}, 2),
    ],
)
@pytest.mark.parametrize("field", ["delta", "message"])
@pytest.mark.parametrize("finish", [None, 7])
def test_only_text_is_words_and_the_same_thoughts_count_once(
    part: dict[str, object], words: int, field: str, finish: int | None
) -> None:
    facts = facts_of(msgspec.json.encode({"choices": [{field: part, "finish_reason": finish}]}))
    assert (facts.words, facts.spoke, facts.anything) == (words, (0,) if words else (), True)


def test_a_role_alone_is_nothing() -> None:
    assert not facts_of(b'{"choices": [{"delta": {"role": "assistant", "content": ""}}]}').anything


def test_what_is_in_the_total_and_not_in_the_completion_was_generated_too() -> None:
    usage = '{"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 915}'
    assert facts_of(f'{{"choices": [], "usage": {usage}}}'.encode()).usage == Usage(10, 905)


def test_a_byte_order_mark_before_the_first_event_goes() -> None:
    splitter = Splitter()
    assert splitter.feed(b"\xef\xbb") == []
    assert splitter.feed(b"\xbfdata: 1\n\ndata: 2\n\n") == [b"data: 1\n\n", b"data: 2\n\n"]
    assert splitter.feed(b"\xef\xbb\xbfdata: 3\n\n") == [b"\xef\xbb\xbfdata: 3\n\n"]


def test_embeddings_have_no_completion() -> None:
    assert facts_of(b'{"usage": {"prompt_tokens": 10, "total_tokens": 10}}').usage == Usage(10, 0)


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        "{}",
        '{"completion_tokens": 1}',
        '{"prompt_tokens": -1}',
        '{"prompt_tokens": 1e30}',
        '{"prompt_tokens": "1"}',
        "[]",
    ],
)
def test_usage_that_makes_no_sense_is_none(usage: str) -> None:
    assert facts_of(f'{{"choices": [], "usage": {usage}}}'.encode()).usage is None


@pytest.mark.parametrize("data", [b'{"choices": [7]}', b'{"choices": {"a": 1}}', b'{"model": 7, "x": [[]]}'])
def test_an_object_of_another_shape_says_nothing_and_is_no_fault(data: bytes) -> None:
    facts = facts_of(data)
    assert (facts.usage, facts.finish, facts.error) == (None, None, None)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b"7", b'{"a": NaN}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_a_fault(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        facts_of(data)
