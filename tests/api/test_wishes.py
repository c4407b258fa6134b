"""What a client may say about who answers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from starlette.datastructures import Headers

from router.api import wire
from router.api.dialect import ChatBody, EmbeddingBody
from router.api.wishes import wishes
from router.domain.errors import InvalidRequest
from router.domain.upstreams import Price
from router.routing.plan import Wishes


def said(headers: dict[str, str] | None = None, **body: Any) -> Wishes:
    return wishes(Headers(headers), wire.decode(json.dumps({"model": "m", **body}).encode(), ChatBody))


def test_who_says_nothing_wishes_nothing() -> None:
    assert said() == Wishes()
    assert said(provider=None, metadata=None, reasoning_effort=None) == Wishes()


@pytest.mark.parametrize("value", ["1", "true", "TRUE", " yes "])
def test_a_request_may_be_kept_on_this_machine(value: str) -> None:
    assert said({"x-router-local-only": value}).local_only
    assert not said({"x-router-local-only": "false"}).local_only


def test_of_two_headers_the_one_that_forbids_counts() -> None:
    name = b"x-router-local-only"
    body = wire.decode(b'{"model": "m"}', ChatBody)
    for first, second in ((b"false", b"true"), (b"true", b"false")):
        assert wishes(Headers(raw=[(name, first), (name, second)]), body).local_only
    with pytest.raises(InvalidRequest):
        wishes(Headers(raw=[(name, b"false"), (name, b"ture")]), body)


def test_accuracy_is_asked_for_in_three_ways() -> None:
    assert said({"x-router-accuracy": "high"}).accuracy
    assert said(metadata={"accuracy": "high", "user": 3}).accuracy
    assert said(reasoning_effort="high") == Wishes(effort=True)
    for other in (
        said({"x-router-accuracy": "normal"}),
        said(metadata={"accuracy": "low"}),
        said(metadata=[1]),
    ):
        assert other == Wishes()
    assert said(reasoning_effort="low", metadata="text") == Wishes()


def test_a_provider_is_read_in_openrouters_words_and_the_rest_of_it_left_alone() -> None:
    found = said(
        provider={
            "allow_fallbacks": False,
            "data_collection": "deny",
            "max_price": {"prompt": 1.5, "completion": "2"},
            "order": ["x"],
        }
    )
    assert found == Wishes(fallbacks=False, retention=False, max_price=Price(Decimal("1.5"), Decimal(2)))
    assert said(provider={"max_price": {"prompt": 1}}).max_price == Price(Decimal(1), Decimal("Infinity"))


def test_embeddings_may_wish_too() -> None:
    body = wire.decode(b'{"model": "m", "provider": {"allow_fallbacks": false}}', EmbeddingBody)
    assert wishes(Headers(), body) == Wishes(fallbacks=False)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-router-local-only": "perhaps"}, {}),
        ({"x-router-accuracy": "highest"}, {}),
        ({}, {"provider": "openai"}),
        ({}, {"provider": {"data_collection": "Deny"}}),
        ({}, {"provider": {"data_collection": False}}),
        ({}, {"provider": {"allow_fallbacks": "no"}}),
        ({}, {"provider": {"max_price": 3}}),
        ({}, {"provider": {"max_price": {"prompt": "cheap"}}}),
        ({}, {"provider": {"max_price": {"prompt": -1}}}),
        ({}, {"provider": {"max_price": {"completion": "NaN"}}}),
    ],
)
def test_a_misspelt_ban_is_an_error_and_no_permission(headers: dict[str, str], body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        said(headers, **body)


UNREADABLE = [b'"\xff"', b'{"accuracy": "\xff", "allow_fallbacks": "\xff"}', b'{"accuracy": "\\ud800"}']


@pytest.mark.parametrize("field", ["provider", "metadata", "reasoning_effort"])
@pytest.mark.parametrize("value", UNREADABLE)
def test_a_wish_that_cannot_be_read_is_refused_or_means_nothing(field: str, value: bytes) -> None:
    raw = b'{"model": "m", "' + field.encode() + b'": ' + value + b"}"
    try:
        assert wishes(Headers(), wire.decode(raw, ChatBody)) == Wishes()
    except InvalidRequest as error:
        assert error.message
