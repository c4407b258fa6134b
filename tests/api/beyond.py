"""A gateway with local models, a scripted endpoint behind two upstreams, and routes over both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from router.domain.routes import Route, Spill
from router.domain.upstreams import Budget, Price, Timeouts, Upstream
from router.registry.loader import Key
from tests.cloud.endpoint import Endpoint, serving
from tests.local import local_model
from tests.scene import Call, Scene, chat_body, scene

QUICK = Timeouts(connect=0.5, first_byte=0.3, idle=0.3)
SHUT = local_model("shut", aliases=("private",))
OPEN = local_model("open", cloud="fallback", fallback=("big",), aliases=("default",))
EAGER = local_model("eager", cloud="spill", fallback=("big",), spill=Spill(5))
ROUTES = (
    Route("chat", ("open", "big"), aliases=("gpt",), cloud="fallback"),
    Route("smart", ("big", "open"), cloud="fallback", accuracy="high", reasoning_effort="high"),
    Route("inside", ("shut", "open")),
)


class Split:
    def __init__(self, running: Scene, endpoint: Endpoint) -> None:
        self.scene = running
        self.endpoint = endpoint
        self.launcher = running.launcher

    async def chat(self, model: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Call:
        body = chat_body("Hi", model, **fields)
        return await self.scene.ask("POST", "/v1/chat/completions", body, headers=headers or {})


@contextlib.asynccontextmanager
async def split(
    keys: tuple[Key, ...] = (),
    budget: Budget | None = None,
    spends: dict[str, Budget] | None = None,
    **how: Any,
) -> AsyncIterator[Split]:
    async with serving(Endpoint()) as endpoint:
        big = Upstream(
            name="big",
            base_url=endpoint.url,
            model="gpt-big",
            price=Price(Decimal(1), Decimal(10)),
            budget=budget or Budget(),
            budgets_by_key=spends or {},
            allow_private=True,
            timeouts=QUICK,
            context=1000,
        )
        box = Upstream("box/open", endpoint.url, "open", allow_private=True, peer=True, timeouts=QUICK)
        upstreams = {u.name: u for u in (big, box)}
        routes = {r.name: r for r in ROUTES}
        async with scene(SHUT, OPEN, EAGER, keys=keys, upstreams=upstreams, routes=routes, **how) as running:
            yield Split(running, endpoint)
