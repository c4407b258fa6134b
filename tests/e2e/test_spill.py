"""A cold model whose requests spill is loaded behind them: a real gateway, a real model, an endpoint that is paid."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.endpoint import Endpoint, serving
from tests.e2e.gateway import Gateway, running, write_registry

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

MiB = 2**20


@contextlib.asynccontextmanager
async def spilling(
    folder: Path, models: dict[str, dict[str, Any]], budget: int
) -> AsyncIterator[tuple[Gateway, Endpoint]]:
    """Each of the models spills to the endpoint when it would take more than 5 s, as a cold one would."""
    async with serving(Endpoint()) as endpoint:
        price = {"input": 1, "output": 1}
        big = {"base_url": endpoint.url, "model": "gpt", "allow_private": True, "price": price}
        spill = {"cloud": "spill", "fallback": ["big"], "spill": {"max_wait": "5s"}}
        path = write_registry(
            folder / "registry.yaml",
            {name: {**spill, **entry} for name, entry in models.items()},
            devices={"host": {"budget": budget}},
            defaults={"context": 512, "slots": 2},
            cloud={"big": big},
        )
        starting = running(path, folder)
        gateway = await asyncio.to_thread(starting.__enter__)
        try:
            yield gateway, endpoint
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


async def ask(gateway: Gateway, model: str, **headers: str) -> str:
    """Who answers: "big", or the model's name."""
    body = {"model": model, "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 2}
    post = gateway.http.post
    response = await asyncio.to_thread(post, "/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.headers["x-router-served-by"].partition("#")[0]


async def until(gateway: Gateway, holds: Callable[[], bool]) -> None:
    await asyncio.to_thread(gateway.until, holds, 120)


def here(gateway: Gateway, *models: str) -> Callable[[], bool]:
    return lambda: sorted(gateway.workers().values()) == sorted(models)


async def test_of_five_requests_for_a_cold_model_the_first_is_paid_for(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    async with spilling(tmp_path, {"chat": {"path": str(demo_models["q4_1"])}}, 600 * MiB) as (
        gateway,
        endpoint,
    ):
        assert await ask(gateway, "chat") == "big"
        await until(gateway, here(gateway, "chat"))
        assert [await ask(gateway, "chat") for _ in range(4)] == ["chat"] * 4
        assert len(endpoint.seen) == 1
        assert gateway.total("router_spills_total", model="chat", reason="cold") == 1
        assert gateway.total("router_swaps_total", model="chat", reason="spill") == 1


async def test_in_room_for_one_two_models_are_not_swapped_by_requests_that_nobody_waits_with(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    both = {"a": {"path": str(demo_models["q4_1"])}, "b": {"path": str(demo_models["q8_0"])}}
    async with spilling(tmp_path, both, 350 * MiB) as (gateway, endpoint):
        assert await ask(gateway, "a") == "big"
        await until(gateway, here(gateway, "a"))
        for _ in range(3):
            assert (await ask(gateway, "b"), await ask(gateway, "a")) == ("big", "a")
        assert gateway.total("router_evictions_total") == 0
        assert gateway.total("router_swaps_total") == 1
        assert len(endpoint.seen) == 4


async def test_a_client_that_never_waits_pays_for_the_first_request_only(
    tmp_path: Path, demo_models: dict[str, Path]
) -> None:
    chat = {"chat": {"path": str(demo_models["q4_1"]), "spill": {"max_wait": "60s"}}}
    async with spilling(tmp_path, chat, 600 * MiB) as (gateway, _):
        never = {"x-router-max-wait": "0"}
        assert await ask(gateway, "chat", **never) == "big"
        await until(gateway, here(gateway, "chat"))
        assert await ask(gateway, "chat", **never) == "chat"
        assert gateway.total("router_fallbacks_total", reason="deadline") == 1
