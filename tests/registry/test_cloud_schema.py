"""Upstreams, peers and routes as people write them."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from pydantic import ValidationError

from router.registry import cloud_schema

ENTRY = {"base_url": "https://api.example.com/v1", "model": "gpt-large"}


def cloud(**keys: object) -> cloud_schema.Cloud:
    return cloud_schema.Cloud.model_validate({**ENTRY, **keys})


def test_money_is_exact() -> None:
    price = cloud(price={"input": 0.1, "output": 10}).price
    assert price is not None
    assert (price.input, price.output) == (Decimal("0.1"), Decimal(10))


@pytest.mark.parametrize(
    "keys",
    [
        {"base_url": "ftp://api.example.com/v1"},
        {"base_url": "api.example.com"},
        {"base_url": "https://"},
        {"base_url": "https://me:secret@api.example.com/v1"},
        {"base_url": "https://api.example.com/v1?key=1"},
        {"base_url": "https://api.example.com:99999/v1"},
        {"base_url": "https://ex\u00e4mple.com/v1"},
        {"api_key": "sk-secret"},
        {"api_key": {"literal": "sk-secret"}},
        {"api_key": {"env": "A B"}},
        {"api_key": {"env": "GGML_BIG"}},
        {"api_key": {"env": "A", "file": "b"}},
        {"price": {"input": -1, "output": 1}},
        {"price": {"input": 1}},
        {"price": {"input": True, "output": 1}},
        {"budget": {"day": "5 USD"}},
        {"max_tokens": 0},
        {"timeouts": {"first_byte": 10}},
        {"data_collection": "maybe"},
        {"headers": {"x-anything": "1"}},
    ],
)
def test_upstreams_that_make_no_sense_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        cloud(**keys)


@pytest.mark.parametrize(
    "url", ["https://api.example.com/v1/", "http://10.0.0.2:8080/v1", "http://[::1]:8080/v1"]
)
def test_addresses_that_people_have_are_addresses(url: str) -> None:
    assert cloud(base_url=url).base_url == url


def test_a_route_holds_names_and_waits_at_least_nothing() -> None:
    spill = cloud_schema.Route.model_validate({"candidates": ["a"], "spill": {"max_wait": "0s"}}).spill
    assert spill is not None
    assert spill.max_wait == 0
    for wrong in ({"candidates": []}, {"candidates": ["a b"]}, {"candidates": ["a"], "min_quant": "Q9"}):
        with pytest.raises(ValidationError):
            cloud_schema.Route.model_validate(wrong)


def test_the_schema_says_what_never_means_for_a_mixed_route() -> None:
    assert "may hold no model that says `cloud: never`" in json.dumps(cloud_schema.Route.model_json_schema())
