"""
The clients of a hostile soak: one through the openai package, one over plain HTTP, and one that asks for a guest.

The one rule: every request gets an id of its own and exactly one Seen, whatever happens to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from tests.bench.hostile_edits import GUEST
from tests.bench.hostile_verdict import End, Seen

HANG_SECONDS = 120.0
"""A request without an end for so long hangs: the registry's max_wait is a third of it."""
PAUSE_SECONDS = 0.25
"""After a request that was refused or broken."""
PROMPTS = ("Once upon a time", "The capital of France is", "Write a list of animals:", "Say hello")

Piece = str | None
"""The finish reason that came with a piece of an answer, if one did."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one request asks, and when its client leaves: after so many pieces, or after so many seconds."""

    path: str
    body: dict[str, Any]
    leave_after: int | None = None
    leave_seconds: float | None = None


class _Refused(Exception):
    """An HTTP error."""


class _Failed(Exception):
    """An error event in a stream."""


def plan(draw: random.Random, models: Sequence[str]) -> Plan:
    """Mostly streams: some run to their limit, some stop by themselves, some are left, some have several prompts."""
    kind = draw.choice(["length", "length", "stop", "left", "left waiting", "prompts", "whole"])
    chat = kind in ("length", "stop", "left") and draw.random() < 0.5
    text = draw.choice(PROMPTS)
    asked = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    body = {
        "model": draw.choice(models),
        **asked,
        "max_tokens": draw.randint(8, 40),
        "seed": draw.randrange(1000),
        "stream": kind != "whole",
    }
    path = "chat/completions" if chat else "completions"
    match kind:
        case "stop":
            return Plan(path, {**body, "stop": ["e", "a"]})
        case "left":
            return Plan(path, {**body, "max_tokens": 400, "ignore_eos": True}, leave_after=draw.randint(1, 6))
        case "left waiting":
            return Plan(
                path, {**body, "max_tokens": 400, "ignore_eos": True}, leave_seconds=draw.random() / 2
            )
        case "prompts":
            return Plan(path, {**body, "prompt": [text, *draw.sample(PROMPTS, 2)], "ignore_eos": True})
    return Plan(path, {**body, "ignore_eos": True})


class Client:
    """One request after another until it is told to stop."""

    def __init__(
        self, name: str, url: str, models: Sequence[str], seed: int, clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.url = url
        self.seen: list[Seen] = []
        self._models = models
        self._random = random.Random(f"{name} {seed}")
        self._clock = clock
        self._limit: asyncio.Timeout | None = None
        self._pieces = 0

    async def run(self, stop: asyncio.Event) -> None:
        async with self.opened():
            while not stop.is_set():
                chosen = plan(self._random, self._models)
                seen = await self.ask(f"{self.name}-{len(self.seen)}", chosen)
                self.seen.append(seen)
                if seen.end not in (End.STOP, End.LENGTH, End.LEFT):
                    await asyncio.sleep(PAUSE_SECONDS)

    @property
    def busy(self) -> bool:
        return self._limit is not None

    def give_up(self) -> None:
        """End the request under way now, as one without an end."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def ask(self, id: str, chosen: Plan) -> Seen:
        began, self._pieces = self._clock(), 0
        try:
            async with asyncio.timeout(HANG_SECONDS) as self._limit:
                async with asyncio.timeout(chosen.leave_seconds) as leaving:
                    end = await self._read(id, chosen)
        except TimeoutError:
            end = End.LEFT if leaving.expired() else End.NONE
        except (_Refused, openai.APIStatusError):
            end = End.REFUSED
        except (httpx2.TransportError, openai.APIConnectionError, OSError):
            end = End.CUT
        except (_Failed, openai.APIError):  # the package's word for an error event
            end = End.ERROR
        finally:
            self._limit = None
        model = str(chosen.body["model"])
        return Seen(id=id, model=model, end=end, began=began, ended=self._clock(), pieces=self._pieces)

    async def _read(self, id: str, chosen: Plan) -> End:
        finish = None
        async with contextlib.aclosing(self.pieces(id, chosen)) as answer:
            async for reason in answer:
                self._pieces += 1
                finish = reason or finish
                if self._pieces == chosen.leave_after:
                    return End.LEFT
        return End(finish) if finish else End.CUT

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        yield

    def pieces(self, id: str, chosen: Plan) -> AsyncGenerator[Piece, None]:
        raise NotImplementedError


class PlainClient(Client):
    """httpx2, and the event stream read by hand: an answer is whole only with its [DONE]."""

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(base_url=self.url, timeout=None, trust_env=False) as self._http:
            yield

    async def pieces(self, id: str, chosen: Plan) -> AsyncGenerator[Piece, None]:
        headers, path = {"x-request-id": id}, f"/v1/{chosen.path}"
        async with self._http.stream("POST", path, json=chosen.body, headers=headers) as response:
            if response.status_code != 200:
                raise _Refused
            if not chosen.body["stream"]:
                yield json.loads(await response.aread())["choices"][-1]["finish_reason"]
                return
            finish, done = None, False
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    reasons = _reasons(json.loads(line[6:]))
                    finish = next(filter(None, reasons), finish)
                    yield None
            if done:
                yield finish


def _reasons(event: dict[str, Any]) -> list[Piece]:
    if "error" in event:
        raise _Failed(str(event["error"]))
    return [choice["finish_reason"] for choice in event["choices"]]


class PackageClient(Client):
    """The openai package, as most programs use it."""

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=2 * HANG_SECONDS
        ) as self._openai:
            yield

    async def pieces(self, id: str, chosen: Plan) -> AsyncGenerator[Piece, None]:
        body = dict(chosen.body)
        extra = {"ignore_eos": body.pop("ignore_eos", False)}
        api = self._openai.chat.completions if chosen.path == "chat/completions" else self._openai.completions
        create: Any = api.create
        answer = await create(**body, extra_body=extra, extra_headers={"x-request-id": id})
        if not body["stream"]:
            yield answer.choices[-1].finish_reason
            return
        async with answer:
            async for chunk in answer:
                yield next((choice.finish_reason for choice in chunk.choices if choice.finish_reason), None)


class Visitor(PlainClient):
    """Now and then one short request for the model that comes and goes."""

    async def run(self, stop: asyncio.Event) -> None:
        async with self.opened():
            while not stop.is_set():
                body = {"model": GUEST, "prompt": "Hi", "max_tokens": 2, "ignore_eos": True, "stream": True}
                self.seen.append(await self.ask(f"{self.name}-{len(self.seen)}", Plan("completions", body)))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1 + self._random.random())


def clock() -> Callable[[], float]:
    """Seconds since now."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
