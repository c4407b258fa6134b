"""The description of the table, and a fuzzer that reads it: no input is a 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.api.app import TABLE
from router.api.openapi import document
from tests.scene import Call, scene

DOCUMENT = document({row.path: row.methods for row in TABLE})


def test_every_row_is_described() -> None:
    described = {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}
    table = {(row.path.replace(":path", ""), method.lower()) for row in TABLE for method in row.methods}
    assert described == table
    chat = DOCUMENT["components"]["schemas"]["ChatBody"]["properties"]
    assert {"model", "messages", "temperature", "stream"} <= chat.keys()


async def test_it_is_served() -> None:
    async with scene() as house:
        assert (await house.ask("GET", "/openapi.json")).json == json.loads(json.dumps(DOCUMENT))


SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
BODIES = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/models/load", "/models/unload"]


def cases(path: str) -> st.SearchStrategy[Any]:
    strategy: st.SearchStrategy[Any] = SCHEMA[path]["POST"].as_strategy()
    return strategy


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(*(cases(path) for path in BODIES)), st.sampled_from(["org/a:q4", "b", None]))
def test_no_body_that_fits_the_description_is_a_500(case: Any, model: str | None) -> None:
    body = case.body
    if model is not None and isinstance(body, dict):
        body["model"] = model  # else nearly every case would end at the unknown name
    asyncio.run(answered(case.path, body))


async def answered(path: str, body: Any) -> None:
    raw = json.dumps(body, default=str).encode()
    async with scene() as house:
        call: Call = await house.ask("POST", path, raw)
    assert call.status is not None
    assert call.status < 500 or call.error["code"] != "internal_error", call.text
    if call.status >= 400:
        assert call.error.keys() == {"message", "type", "param", "code"}
