from __future__ import annotations

import asyncio

from router.residency.feed import Feed, StatusChange
from router.residency.view import Status
from tests.residency.virtual_time import in_virtual_time

Shown = dict[str, tuple[Status, float]]


class Listener:
    """Reads a feed in the background."""

    def __init__(self, feed: Feed) -> None:
        self.seen: list[StatusChange] = []
        self._feed = feed

    async def listen(self, limit: int | None = None) -> None:
        changes = self._feed.changes()
        async for change in changes:
            self.seen.append(change)
            if len(self.seen) == limit:
                await changes.aclose()
                return


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@in_virtual_time
async def test_every_listener_hears_what_changed_and_only_that() -> None:
    shown: Shown = {"a": ("loaded", 1.0), "b": ("unloaded", 0.0)}
    feed = Feed(lambda: shown)
    first, second = Listener(feed), Listener(feed)
    async with asyncio.TaskGroup() as tasks:
        for listener in (first, second):
            tasks.create_task(listener.listen())
        await settle()
        feed.stir()
        await settle()
        assert first.seen == []
        shown["b"] = ("loading", 0.5)
        del shown["a"]
        feed.stir()
        await settle()
        feed.close()
    assert first.seen == second.seen
    assert set(first.seen) == {StatusChange("b", "loading", 0.5), StatusChange("a", "unloaded", 0.0)}


@in_virtual_time
async def test_a_slow_listener_gets_the_latest_of_each_model_and_costs_no_more() -> None:
    shown: Shown = {}
    feed = Feed(lambda: shown)
    slow = feed.changes()
    first = asyncio.get_running_loop().create_future()

    async def read_one() -> None:
        first.set_result(await anext(slow))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read_one())
        await settle()
        for step in range(1000):
            shown["a"] = ("loading", step / 1000)
            shown["b"] = ("loaded", 1.0)
            feed.stir()
    (listener,) = feed._listeners
    assert len(listener.pending) <= 2
    rest = [first.result(), await anext(slow)]
    assert StatusChange("a", "loading", 0.999) in rest
    await slow.aclose()


@in_virtual_time
async def test_nothing_is_looked_at_while_nobody_listens() -> None:
    looked: list[None] = []

    def look() -> Shown:
        looked.append(None)
        return {}

    Feed(look).stir()
    assert looked == []


@in_virtual_time
async def test_a_listener_who_leaves_is_forgotten() -> None:
    shown: Shown = {}
    feed = Feed(lambda: shown)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Listener(feed).listen(limit=1))
        await settle()
        shown["a"] = ("loading", 0.0)
        feed.stir()
    assert not feed._listeners


@in_virtual_time
async def test_what_happened_while_nobody_listened_is_no_news() -> None:
    shown: Shown = {}
    feed = Feed(lambda: shown)
    shown["a"] = ("loaded", 1.0)
    feed.stir()
    listener = Listener(feed)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(listener.listen())
        await settle()
        feed.stir()
        await settle()
        feed.close()
    assert listener.seen == []


@in_virtual_time
async def test_a_closed_feed_ends_at_once() -> None:
    feed = Feed(dict)
    feed.close()
    assert [change async for change in feed.changes()] == []
