"""What the handlers are handed."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from router.api.house import Background, Record
from router.domain.errors import UnknownModel
from router.registry.loader import Key
from tests.scene import A, B, scene


def record(*models: str) -> Record:
    return Record("r1", key=Key("k", "0" * 64, models))


@pytest.mark.parametrize("models", [("*",), (A.name,), ("default",), ("b", A.name)])
def test_a_key_names_models_by_name_alias_or_star(models: tuple[str, ...]) -> None:
    assert record(*models).may_use(A)


def test_a_key_without_the_model_may_not_and_no_key_may() -> None:
    assert not record("b").may_use(A)
    assert not record().may_use(A)
    assert Record("r1").may_use(A)


async def test_a_look_up_notes_the_model_and_checks_the_key() -> None:
    async with scene() as running:
        house = running.house
        mine = record("b")
        with pytest.raises(UnknownModel):
            house.model("default", mine)
        assert mine.model is None
        assert house.model("b", mine) == B
        assert mine.model == B.name
        with pytest.raises(UnknownModel):
            house.model("c", mine)
        assert list(house.targets(mine)) == [B]
        assert list(house.targets(Record("r2"))) == [A, B]


async def test_background_work_runs_once_a_name_and_ends_with_the_app() -> None:
    background = Background()
    began: list[str] = []
    ended: list[str] = []

    async def work(name: str) -> None:
        began.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async with background.open():
        background.start("a", work("a"))
        background.start("a", work("again"))
        background.start("b", work("b"))
        await asyncio.sleep(0)
    assert began == ["a", "b"]
    assert ended == ["a", "b"]


async def test_background_work_can_be_started_again_once_it_is_done() -> None:
    background = Background()
    done: list[int] = []

    async def work(number: int) -> None:
        done.append(number)

    async with background.open():
        background.start("a", work(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        background.start("a", work(2))
        await asyncio.sleep(0)
    assert done == [1, 2]


async def test_background_work_needs_an_owner() -> None:
    async def work() -> None:
        pass

    with pytest.raises(RuntimeError):
        Background().start("a", work())


async def test_background_work_that_breaks_ends_alone() -> None:
    background = Background()
    done: list[str] = []

    async def breaks() -> None:
        raise ValueError("a bug")

    async def works() -> None:
        done.append("works")

    with capture_logs() as lines:
        async with background.open():
            background.start("a", breaks())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            background.start("a", works())
            await asyncio.sleep(0)
            background.start("late", works())  # cancelled before its first step
    assert done == ["works"]
    assert [(line["event"], line["task"]) for line in lines] == [("a task broke", "a")]
