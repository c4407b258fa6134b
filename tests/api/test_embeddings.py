"""/v1/embeddings here; what is relayed is in test_exchange_relayed."""

from __future__ import annotations

from tests.api.beyond import split
from tests.scene import A, scene


async def test_vectors_say_who_made_them() -> None:
    async with scene() as house:
        call = await house.ask("POST", "/v1/embeddings", {"model": "default", "input": ["x", "y"]})
        assert (call.json["model"], len(call.json["data"])) == (A.name, 2)
        assert call.headers["x-router-served-by"].startswith(A.name)
        assert house.total("router_requests_total", model=A.name, finish="stop") == 1


async def test_a_wrong_number_of_dimensions_is_the_callers_fault_and_no_reason_to_leave() -> None:
    async with split() as house:
        body = {"model": "chat", "input": "x", "dimensions": 5}
        call = await house.scene.ask("POST", "/v1/embeddings", body)
        assert (call.status, call.error["param"]) == (400, "dimensions")
        assert house.endpoint.seen == []


async def test_an_input_that_makes_no_sense_leaves_nothing() -> None:
    async with split() as house:
        call = await house.scene.ask("POST", "/v1/embeddings", {"model": "chat", "input": []})
        assert (call.status, call.error["param"]) == (400, "input")
        assert house.endpoint.seen == []
