"""What a client may say about its own waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from router.api.patience import Patience, patience
from router.domain.errors import InvalidRequest
from router.domain.models import Limits
from tests.api.door import served
from tests.local import local_model
from tests.scene import A, B, Scene, chat_body, scene, until

LIMITS = Limits(max_wait=60)


def said(**headers: str) -> Patience:
    return patience({f"x-router-{name.replace('_', '-')}": value for name, value in headers.items()}, LIMITS)


def test_who_says_nothing_waits_as_the_registry_has_it() -> None:
    assert said() == Patience(None, None)
    assert said().priority(local_model(priority=3)) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30.0), (" 0.5 ", 0.5), ("0", 0.0), ("61", 60.0), ("999999999", 60.0)]
)
def test_a_wait_can_be_shortened_and_not_lengthened(text: str, seconds: float) -> None:
    assert said(max_wait=text).wait == seconds


@pytest.mark.parametrize(("text", "points"), [("0", 0), ("-5", -5), ("+1", 1), ("100", 2)])
def test_a_priority_can_be_lowered_and_not_raised(text: str, points: int) -> None:
    assert said(priority=text).priority(local_model(priority=2)) == points


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "1e3", "nan", "inf", "5s", "0x10", "1_0", "１", "9" * 400]
)
def test_a_wait_that_is_no_number_of_seconds_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="x-router-max-wait"):
        said(max_wait=text)


@pytest.mark.parametrize("text", ["", "high", "1.5", "101", "-101", "--1", "1 2", "٣", "9" * 400])
def test_a_priority_that_is_no_whole_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="x-router-priority"):
        said(priority=text)


async def test_a_request_that_will_not_wait_is_refused_at_once_with_a_time_to_come_back() -> None:
    async with scene(A, B) as house:
        call = await house.ask(
            "POST", "/v1/chat/completions", chat_body("Hi", A.name), headers={"x-router-max-wait": "0"}
        )
        assert call.status == 503
        assert int(call.headers["retry-after"]) >= 1
        assert A.name not in house.launcher.workers


async def test_nonsense_in_either_header_is_a_400_before_anything_is_loaded() -> None:
    async with scene(A, B) as house:
        for header in ("x-router-max-wait", "x-router-priority"):
            call = await house.ask(
                "POST", "/v1/chat/completions", chat_body("Hi", A.name), headers={header: "now!"}
            )
            assert call.status == 400
            assert header in call.error["message"]
        assert not house.launcher.workers


async def test_the_priority_of_a_request_decides_who_is_next() -> None:
    async with scene(A, B) as house:
        hold = asyncio.Event()
        house.launcher.scripts[A.name] = [[hold]]
        first = [house.call("POST", "/v1/chat/completions", chat_body(str(n), A.name)) for n in range(2)]
        await until(lambda: A.name in house.launcher.workers and house.launcher.worker(A).running == 2)
        late = [
            house.call(
                "POST",
                "/v1/chat/completions",
                chat_body(f"p{points}", A.name),
                headers={"x-router-priority": points},
            )
            for points in ("-2", "-1", "0")
        ]
        await until(lambda: house.house.residency.view().waiting == {A.name: 3})
        hold.set()
        for call in (*first, *late):
            await call.done()
        asked = [request.prompt.messages[0].content for request in house.launcher.worker(A).requests[2:]]  # type: ignore[union-attr]
        assert asked == ["p0", "p-1", "p-2"]


async def crowded(house: Scene, client: openai.AsyncOpenAI, **headers: str) -> tuple[Any, asyncio.Event]:
    """Two prompts in a stream; when the first is answered its slot goes to another client, so the second waits."""
    first, rest = asyncio.Event(), asyncio.Event()
    house.launcher.scripts[A.name] = [[rest], ["Hello", first], [rest]]
    house.call("POST", "/v1/completions", {"model": A.name, "prompt": "filler"})
    await until(lambda: A.name in house.launcher.workers and house.launcher.worker(A).running == 1)
    stream = await client.completions.create(
        model=A.name, prompt=["first", "second"], stream=True, extra_headers=headers
    )
    house.call("POST", "/v1/completions", {"model": A.name, "prompt": "other"})
    await until(lambda: house.house.residency.view().waiting == {A.name: 1})
    first.set()
    return stream, rest


async def test_every_prompt_of_a_stream_waits_as_long_as_the_request_says() -> None:
    async with scene(A, B) as house, served(house) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream, rest = await crowded(house, client, **{"x-router-max-wait": "0"})
            async with asyncio.timeout(20):
                with pytest.raises(openai.APIError, match="not ready within"):
                    async for _ in stream:
                        pass
            rest.set()


async def test_every_prompt_of_a_stream_is_as_urgent_as_the_request_says() -> None:
    async with scene(A, B) as house, served(house) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream, rest = await crowded(house, client, **{"x-router-priority": "-1"})
            asked = house.launcher.worker(A).requests
            await until(lambda: len(asked) == 3 and house.house.residency.view().waiting == {A.name: 1})
            house.call("POST", "/v1/completions", {"model": A.name, "prompt": "late"})
            await until(lambda: house.house.residency.view().waiting == {A.name: 2})
            rest.set()
            async for _ in stream:
                pass
            assert [request.prompt.text for request in asked[2:]] == ["other", "late", "second"]  # type: ignore[union-attr]
