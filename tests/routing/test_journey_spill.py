"""What a request leaves behind at the local models that it went past: a load for the next ones, and a count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.cloud.calls import CloudCall
from router.domain import errors
from router.domain.generation import GenerationRequest, TextPrompt
from router.domain.models import Limits, LocalModel
from router.domain.upstreams import Upstream
from router.routing.journey import Asked
from router.routing.plan import Plan, Spilled
from router.routing.route import Candidate
from tests.cloud.endpoint import Endpoint, serving, status
from tests.scene import A, B, Scene, scene, until

REQUEST = GenerationRequest("g1", TextPrompt("Hi"))


class House:
    def __init__(self, running: Scene, endpoint: Endpoint) -> None:
        self.scene = running
        self.endpoint = endpoint
        self.big = Upstream("big", endpoint.url, "gpt", allow_private=True)

    async def ask(
        self, *candidates: Candidate, past: tuple[Spilled, ...] = (), wait: float | None = None
    ) -> str:
        """Who answered."""
        asked: Any = Asked(
            lambda model: self.scene.house.dispatcher.generate(model, REQUEST, wait),
            lambda: CloudCall("chat/completions", {"model": "ours", "messages": []}),
        )
        plan = Plan("r", candidates, private=False, spilled=past)
        async with self.scene.house.journeys.open(plan, asked) as answer:
            return answer.served_by

    def loaded(self, model: LocalModel) -> bool:
        return self.scene.house.residency.view().status(model.name) == "loaded"

    def spills(self, **labels: str) -> float:
        return self.scene.total("router_spills_total", **labels)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with serving(Endpoint()) as endpoint, scene() as running:
        yield House(running, endpoint)


COLD = (Spilled(A, "cold"),)


async def test_a_cold_model_that_a_request_went_past_is_loaded_and_counted(house: House) -> None:
    assert await house.ask(house.big, A, past=COLD) == "big"
    await until(lambda: house.loaded(A))
    assert house.spills(model=A.name, reason="cold") == 1
    assert house.scene.total("router_swaps_total", model=A.name, reason="spill") == 1


async def test_another_local_model_that_answers_has_its_memory_first(house: House) -> None:
    """There is room for one."""
    assert (await house.ask(B, house.big, A, past=COLD)).startswith(B.name)
    assert house.scene.total("router_evictions_total") == 0
    assert not house.loaded(A)
    assert house.spills(model=A.name) == 1


async def test_then_the_one_that_was_gone_past_is_loaded_beside_it(house: House) -> None:
    house.scene.house.residency.reconcile({m.name: m for m in (A, B)}, {"host": 200}, Limits())
    assert (await house.ask(B, house.big, A, past=COLD)).startswith(B.name)
    await until(lambda: house.loaded(A))


async def test_a_model_that_answers_after_all_was_not_spilled(house: House) -> None:
    house.endpoint.answer = status(500)
    past = (Spilled(A, "busy"), Spilled(B, "cold"))
    assert (await house.ask(house.big, A, B, past=past)).startswith(A.name)
    assert (house.spills(model=A.name), house.spills(model=B.name)) == (0, 1)


async def test_a_request_that_comes_while_the_gateway_stops_loads_nothing(house: House) -> None:
    await house.scene.house.journeys.shut_down(0)
    with pytest.raises(errors.ShuttingDown):
        await house.ask(house.big, A, past=COLD)
    assert house.scene.house.residency.view().instances == ()
    assert house.spills() == 0


async def test_a_client_that_never_waits_finds_the_model_there_in_the_end(house: House) -> None:
    """With `x-router-max-wait: 0` a load was never begun, so each of its requests was paid for."""
    assert await house.ask(A, house.big, wait=0) == "big"
    await until(lambda: house.loaded(A))
    assert (await house.ask(A, house.big, wait=0)).startswith(A.name)


async def test_a_request_that_nobody_else_could_answer_loads_nothing_behind_its_back(house: House) -> None:
    with pytest.raises(errors.LeaseTimeout):
        await house.ask(A, wait=0)
    assert house.scene.house.residency.view().instances == ()


async def test_a_model_that_cannot_be_loaded_is_not_tried_for_ever(house: House) -> None:
    house.scene.launcher.broken[A.name] = "no such file"
    for _ in range(12):
        assert await house.ask(house.big, A, past=COLD) == "big"
    view = house.scene.house.residency.view
    await until(lambda: not view().instances and view().status(A.name) == "failed")
    assert await house.ask(house.big, A, past=COLD) == "big"
    assert view().instances == ()
