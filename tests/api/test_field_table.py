"""The table is walked: each field of it, with each value that it names, is sent to a real gateway."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from openai.resources.embeddings import Embeddings

from router.api import dialect, wire
from router.api.field_kinds import EVERYWHERE, Effect, Endpoint, Field
from router.api.field_table import FIELDS, MESSAGE_FIELDS, STREAM_FIELDS, TABLE
from tests.e2e import echo
from tests.e2e.gateway import Gateway

pytestmark = pytest.mark.process

HI = {"role": "user", "content": "Hi"}
PATHS = {"chat": "chat/completions", "completions": "completions", "embeddings": "embeddings"}
BODIES: dict[Endpoint, dict[str, Any]] = {
    "chat": {"messages": [HI], "max_tokens": 2},
    "completions": {"prompt": "Hi", "max_tokens": 2},
    "embeddings": {"input": "Hi"},
}
METHODS = {"chat": ChatCompletions, "completions": Completions, "embeddings": Embeddings}
STRUCTS: dict[Endpoint, type[wire.Body]] = {
    "chat": dialect.ChatBody,
    "completions": dialect.CompletionBody,
    "embeddings": dialect.EmbeddingBody,
}
EMPTY: tuple[object, ...] = (None, [], {}, "")
ROWS = [(endpoint, field) for endpoint in EVERYWHERE for field in TABLE[endpoint].values()]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    registry = echo.registry(tmp_path_factory.mktemp("fields"))
    nowhere = subprocess.DEVNULL
    with echo.serving(registry, stdout=nowhere, stderr=nowhere) as running:
        running.wait()
        yield running


def send(gateway: Gateway, endpoint: Endpoint, **fields: object) -> tuple[int, str | None, str | None]:
    """Status, and of an error the field and the message."""
    body = {"model": "quick", **BODIES[endpoint], **fields}
    answer = gateway.http.post(f"/v1/{PATHS[endpoint]}", json=body)
    error = answer.json()["error"] if answer.status_code >= 400 else {}
    return answer.status_code, error.get("param"), error.get("message")


@pytest.mark.parametrize(("endpoint", "field"), ROWS, ids=lambda value: getattr(value, "name", value))
def test_every_field_is_what_the_table_says(gateway: Gateway, endpoint: Endpoint, field: Field) -> None:
    example = "quick" if field.name == "model" else field.example
    status, param, message = send(gateway, endpoint, **{field.name: example})
    if field.effect is Effect.REFUSED:
        assert (status, param) == (400, field.name)
        assert message is not None and f"'{field.name}' is not supported" in message
        for nothing in (*field.nothing, *EMPTY):
            assert send(gateway, endpoint, **{field.name: nothing})[0] == 200, nothing
        if field.off_by:
            assert send(gateway, endpoint, **{field.name: field.example, field.off_by: "none"})[0] == 200
    elif field.name != "stream":
        assert (status, message) == (200, None)


@pytest.mark.parametrize("field", MESSAGE_FIELDS, ids=lambda field: field.name)
def test_every_field_of_a_message_is_what_the_table_says(gateway: Gateway, field: Field) -> None:
    def sent(value: object) -> tuple[int, str | None]:
        turn = {"role": "assistant", "content": "Hello", field.name: value}
        return send(gateway, "chat", messages=[HI, turn, HI])[:2]

    if field.effect is not Effect.REFUSED:
        assert sent(field.example) == (200, None)
        return
    assert sent(field.example) == (400, f"messages[1].{field.name}")
    assert [sent(nothing) for nothing in EMPTY] == [(200, None)] * len(EMPTY)


@pytest.mark.parametrize("field", STREAM_FIELDS, ids=lambda field: field.name)
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_every_stream_option_is_what_the_table_says(
    gateway: Gateway, endpoint: Endpoint, field: Field
) -> None:
    body = {**BODIES[endpoint], "model": "quick", "stream": True}
    body["stream_options"] = {field.name: field.example}
    answer = gateway.http.post(f"/v1/{PATHS[endpoint]}", json=body)
    if field.effect is Effect.REFUSED:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"stream_options.{field.name}")
    else:
        assert answer.status_code == 200 and answer.text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("endpoint", EVERYWHERE)
def test_every_parameter_of_the_official_client_is_in_the_table(gateway: Gateway, endpoint: Endpoint) -> None:
    called = inspect.signature(METHODS[endpoint].create).parameters
    known = called.keys() - {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    assert known - TABLE[endpoint].keys() == set()
    resources: dict[str, Any] = {
        "chat": gateway.openai.chat.completions,
        "completions": gateway.openai.completions,
        "embeddings": gateway.openai.embeddings,
    }
    for name in sorted(known - {"model", "stream", "stream_options"}):
        field = TABLE[endpoint][name]
        fields = {"model": "quick", **BODIES[endpoint], name: field.example}
        if field.effect is Effect.REFUSED:
            with pytest.raises(BadRequestError) as refused:
                resources[endpoint].create(**fields)
            assert refused.value.param == name
        else:
            assert resources[endpoint].create(**fields)


@pytest.mark.parametrize("endpoint", EVERYWHERE)
def test_what_no_schema_has_is_ignored_and_counted_without_its_name(
    gateway: Gateway, endpoint: Endpoint
) -> None:
    before = gateway.total("router_unknown_fields_total", route=endpoint)
    odd = {"enable_magic": True, "router_magic": [{"a": 1}], "": None}
    assert send(gateway, endpoint, **odd, user="ada")[0] == 200
    assert gateway.total("router_unknown_fields_total", route=endpoint) == before + 3
    assert "magic" not in gateway.http.get("/metrics").text


def test_what_the_bodies_decode_is_in_the_table_and_the_rest_of_it_is_not_honoured() -> None:
    for endpoint, struct in STRUCTS.items():
        table = TABLE[endpoint]
        decoded = set(struct.__struct_fields__)
        honoured = {n for n, f in table.items() if f.effect in (Effect.HONOURED, Effect.ALIAS)}
        assert decoded - {"reasoning_effort"} == honoured
    assert {f.name for f in MESSAGE_FIELDS} >= set(dialect.Turn.__struct_fields__)


def test_a_name_stands_once_at_an_endpoint_and_an_alias_names_a_field() -> None:
    named = [(endpoint, field.name) for field in FIELDS for endpoint in field.endpoints]
    assert len(named) == len(set(named))
    for table in TABLE.values():
        aliases = [field for field in table.values() if field.effect is Effect.ALIAS]
        assert all(table[field.note].effect is Effect.HONOURED for field in aliases)


def test_a_schema_is_named_by_its_letter_and_what_is_ignored_says_why() -> None:
    for field in (*FIELDS, *MESSAGE_FIELDS, *STREAM_FIELDS):
        assert set(field.schemas) <= set("OLV") and field.schemas == "".join(
            sorted(field.schemas, key="OLV".index)
        )
        assert field.effect is not Effect.HARMLESS or field.note
