"""The description of the table, and a fuzzer that reads it: no input is a 500."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from typing import Any

import pytest
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
    assert chat["n"]["description"] == "refused. One answer a request."


async def test_it_is_served() -> None:
    async with scene() as house:
        assert (await house.ask("GET", "/openapi.json")).json == json.loads(json.dumps(DOCUMENT))


SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
EVERY = [(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods]
WITH_BODY = [
    (path, method) for path, method in EVERY if "requestBody" in DOCUMENT["paths"][path][method.lower()]
]
ENDLESS = {"/models/sse"}
ODD = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def cases(path: str, method: str) -> st.SearchStrategy[Any]:
    strategy: st.SearchStrategy[Any] = SCHEMA[path][method].as_strategy()
    return strategy


def test_the_fuzzer_sees_every_endpoint_that_takes_a_body() -> None:
    assert {path.removeprefix("/v1") for path, _ in WITH_BODY} == {
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/models/load",
        "/models/unload",
    }


@ODD
@given(st.one_of(*(cases(*row) for row in WITH_BODY)), st.sampled_from(["org/a:q4", "b", None]))
def test_no_body_that_fits_the_description_is_a_500(case: Any, model: str | None) -> None:
    body = case.body
    if model is not None and isinstance(body, dict):
        body["model"] = model  # else nearly every case would end at the unknown name
    asyncio.run(answered("POST", case.path, json.dumps(body, default=str).encode()))


@ODD
@given(
    st.sampled_from([*sorted({path for path, _ in EVERY} - ENDLESS), "//", "/v1", "/nowhere"]),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]),
    st.text(),
    st.text(),
    st.binary(max_size=40),
)
def test_no_method_name_query_or_junk_on_any_path_is_a_500(
    path: str, method: str, name: str, query: str, junk: bytes
) -> None:
    filled = path.replace("{id}", name.encode("utf-8", "replace").decode())
    asyncio.run(answered(method, filled, junk, query=f"model={urllib.parse.quote(query, errors='replace')}"))


@pytest.mark.parametrize(("path", "method"), sorted(set(EVERY)))
def test_every_row_answers_what_it_was_not_made_for(path: str, method: str) -> None:
    if path not in ENDLESS:
        asyncio.run(answered(method, path.replace("{id}", "org/a:q4"), b"[]"))
    asyncio.run(answered("PUT", path.replace("{id}", "x"), b"", wanted=405))


async def answered(method: str, path: str, raw: bytes, query: str = "", wanted: int | None = None) -> None:
    async with scene() as house:
        call: Call = await house.ask(method, path, raw, query=query)
    assert call.status is not None
    assert wanted in (None, call.status)
    if call.status >= 400 and call.text:
        assert call.error.keys() == {"message", "type", "param", "code"}
        assert call.error["code"] != "internal_error", call.text
