"""What leaves this machine, and what it may cost at most."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from router.cloud import outgoing
from router.cloud.calls import CloudCall
from router.domain.errors import InvalidRequest
from router.domain.upstreams import Upstream
from tests.cloud.scene import HELLO, PRICE, call

FREE = Upstream("box", "http://box/v1", "theirs")
PAID = msgspec.structs.replace(FREE, price=PRICE, max_tokens=100)


def sent(upstream: Upstream, call: CloudCall) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(outgoing.compose(upstream, call).body)
    return found


def test_the_model_is_the_upstreams_and_fields_of_the_provider_go_along() -> None:
    body = {**HELLO, "provider": {"order": ["x"]}, "temperature": 0.5}
    assert sent(FREE, call(body=body)) == {
        **body,
        "model": "theirs",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert body["model"] == "ours"


def test_a_whole_answer_is_asked_for_without_stream_options() -> None:
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    assert sent(FREE, call(stream=False, body=body)) == {**HELLO, "model": "theirs"}


@pytest.mark.parametrize(
    ("options", "drops"),
    [(None, True), ({"include_usage": False}, True), ({"include_usage": True, "x": 1}, False)],
)
def test_the_usage_that_only_we_asked_for_is_dropped(options: object, drops: bool) -> None:
    made = outgoing.compose(FREE, call(body={**HELLO, "stream_options": options}))
    assert made.drops_usage is drops
    assert json.loads(made.body)["stream_options"]["include_usage"] is True


def test_headers_are_literals_and_the_operators_key() -> None:
    named = dict(outgoing.headers("host:1", "sk-1", stream=True))
    assert named.keys() == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "content-type",
        "authorization",
    }
    assert named["authorization"] == "Bearer sk-1"
    assert "authorization" not in dict(outgoing.headers("host:1", None, stream=False))


def test_a_peer_and_nobody_else_is_told_whose_request_it_is() -> None:
    made = outgoing.compose(FREE, CloudCall("chat/completions", HELLO, tenant="t1"))
    assert made.tenant == "t1"
    told = dict(outgoing.headers("host:1", None, stream=False, peer=True, tenant="t1"))
    assert told["x-router-tenant"] == "t1"
    assert "x-router-tenant" not in dict(outgoing.headers("host:1", None, stream=False, peer=True))
    assert "x-router-tenant" not in dict(outgoing.headers("host:1", None, stream=False, tenant="t1"))


def test_a_peer_is_told_to_ask_nobody_else() -> None:
    assert "x-router-local-only" not in dict(outgoing.headers("host:1", None, stream=False))
    assert dict(outgoing.headers("host:1", None, stream=False, peer=True))["x-router-local-only"] == "true"


def test_what_is_free_is_sent_without_a_limit_of_ours() -> None:
    made = outgoing.compose(FREE, call())
    assert (made.worst, "max_tokens" in json.loads(made.body)) == (0, False)


def test_the_worst_case_is_the_prompt_and_the_whole_limit() -> None:
    assert outgoing.compose(PAID, call(prompt_tokens_bound=7, max_tokens=20)).worst == 7 + 20 * 10
    unsaid = outgoing.compose(PAID, call())
    assert unsaid.worst == len(unsaid.body) + 100 * 10


def test_the_limit_goes_along_in_the_field_that_the_client_used() -> None:
    both = {**HELLO, "max_tokens": 9, "max_completion_tokens": 9}
    assert sent(PAID, call(max_tokens=9)).get("max_tokens") == 9
    assert "max_tokens" not in sent(PAID, call(body=both, max_tokens=9))
    other = msgspec.structs.replace(PAID, max_tokens_field="max_completion_tokens")
    assert sent(other, call())["max_completion_tokens"] == 100


def test_a_limit_in_the_body_cannot_be_larger_than_what_is_reserved() -> None:
    assert sent(PAID, call(body={**HELLO, "max_tokens": 10**6}, max_tokens=5))["max_tokens"] == 5


def test_a_limit_that_no_record_could_hold_is_refused_before_it_breaks_others_reservations() -> None:
    with pytest.raises(InvalidRequest):
        outgoing.compose(PAID, call(max_tokens=2**63 - 1))
    outgoing.compose(FREE, call(max_tokens=2**63 - 1))


@pytest.mark.parametrize("field", ["models", "fallbacks"])
@pytest.mark.parametrize("upstream", [FREE, PAID])
def test_a_client_cannot_choose_another_model_than_the_operator(upstream: Upstream, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        outgoing.compose(upstream, call(body={**HELLO, field: ["other/dear"]}))
    assert caught.value.param == field
    assert sent(upstream, call(body={**HELLO, field: []}))["model"] == "theirs"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plugins", [{"id": "web"}]),
        ("web_search_options", {"search_context_size": "high"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}, {"type": "web_search"}]),
        ("service_tier", "priority"),
        ("service_tier", ["auto"]),
    ],
)
def test_what_the_price_does_not_cover_is_refused_where_there_is_a_price(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        outgoing.compose(PAID, call(body={**HELLO, field: value}))
    assert caught.value.param == field
    assert sent(FREE, call(body={**HELLO, field: value}))[field] == value
    assert sent(PAID, call(body={**HELLO, "service_tier": "flex"}))["service_tier"] == "flex"


def test_several_answers_cost_several_times() -> None:
    once = outgoing.compose(PAID, call(prompt_tokens_bound=7, max_tokens=20)).worst
    assert (
        outgoing.compose(PAID, call(body={**HELLO, "n": 3}, prompt_tokens_bound=7, max_tokens=20)).worst
        == 3 * once
    )


@pytest.mark.parametrize(
    ("prompt", "answers"), [("a", 1), (["a", "b", "c"], 3), ([[1], [2]], 2), ([1, 2, 3], 1), ([], 1)]
)
def test_each_prompt_has_an_answer(prompt: object, answers: int) -> None:
    asked = CloudCall("completions", {"prompt": prompt}, prompt_tokens_bound=0, max_tokens=1)
    assert outgoing.compose(PAID, asked).worst == 10 * answers


def test_embeddings_cost_their_prompt() -> None:
    made = outgoing.compose(PAID, CloudCall("embeddings", {"input": "a"}, prompt_tokens_bound=5))
    assert (made.worst, "max_tokens" in json.loads(made.body)) == (5, False)


@pytest.mark.parametrize("n", [0, -1, "3", 1.5, True, 129])
def test_a_number_of_answers_that_cannot_be_reckoned_with_is_refused(n: object) -> None:
    with pytest.raises(InvalidRequest, match="'n'"):
        outgoing.compose(PAID, call(body={**HELLO, "n": n}))


def test_a_picture_behind_a_url_counts_as_many_tokens() -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "https://x"}}]
    body = {"messages": [{"role": "user", "content": parts}, "odd", {"role": "user", "content": [7]}]}
    assert outgoing.prompt_bound(b"", body) == outgoing.PART_TOKENS


def test_a_token_is_never_counted_as_less_than_its_bytes() -> None:
    text = 'ä𝄞\n"' * 100
    made = outgoing.compose(PAID, call(body={"messages": [{"role": "user", "content": text}]}, max_tokens=1))
    assert made.worst - 10 >= len(text.encode())


def test_neither_body_nor_key_is_in_its_repr() -> None:
    assert repr(outgoing.compose(FREE, call(body={"messages": "canary"}))).startswith(
        "Outgoing(POST chat/completions"
    )
    assert "canary" not in repr(outgoing.compose(FREE, call(body={"messages": "canary"})))
