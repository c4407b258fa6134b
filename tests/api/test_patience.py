"""What a client may say about its own waiting."""

from __future__ import annotations

import asyncio

import pytest

from router.api.patience import Patience, patience
from router.domain.errors import InvalidRequest
from router.domain.models import Limits
from tests.local import local_model
from tests.scene import A, B, chat_body, scene, until

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
