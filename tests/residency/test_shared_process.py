"""Two names of the registry for one file and the same options: one process, whose policy is that of both."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from router.domain.errors import Unloaded
from router.domain.models import LocalModel
from router.residency import policy
from router.residency.events import (
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    StopWorker,
    TimePassed,
    UnloadRequested,
    WorkerExited,
)
from router.residency.feed import StatusChange
from tests.residency import manager_scene
from tests.residency.playbook import Play, Refused, desired, house, model, ready, start
from tests.residency.virtual_time import in_virtual_time

A = model("a", 8, ttl=3.0)
B = model("b", 6)


def named(name: str, **options: object) -> LocalModel:
    """Another name for A's process."""
    return msgspec.structs.replace(A, **{"name": name, "ttl": 3.0, **options})


def loaded(*models: LocalModel) -> Play:
    """A was asked for by its first name, used until 2, and is idle."""
    play = house(*models) << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    return play << ready(1, "a#1", 2, 8) >> [GrantLease(1, "a#1")] << LeaseReleased(2, 1) >> []


def test_what_names_want_together() -> None:
    both = policy.common([A, named("x", pinned=True, preload=True, ttl=60.0, priority=9)])
    assert (both.name, both.pinned, both.preload, both.ttl) == ("x", True, True, 60.0)
    assert policy.common([A, named("x", ttl=None)]).ttl is None
    assert policy.common([A, named("x", preload=True)]).name == "x"
    broken = named("x", problem="it is gone", pinned=True)
    assert policy.common([broken, A]).problem is None
    assert policy.common([A]) == A


def test_the_preload_of_the_second_name_counts() -> None:
    twin = named("twin", preload=True)
    house(A, twin) >> [start("twin#1", twin, "preload")]


def test_the_longest_ttl_counts_and_never_is_the_longest() -> None:
    play = loaded(A, named("twin", ttl=60.0), B)
    play << TimePassed(61) >> [] << TimePassed(62) >> [StopWorker("a#1", "idle")]
    for names in ((A, named("twin", ttl=None)), (named("twin", ttl=None), A)):
        play = loaded(*names)
        play << TimePassed(10_000) >> []


def test_pinned_by_any_name_is_pinned_and_unpinned_with_that_name() -> None:
    for names in ((A, named("twin", pinned=True)), (named("twin", pinned=True), A)):
        play = loaded(A, B)
        play << desired(3, [*names, B]) >> [] << TimePassed(1000) >> []
        play << desired(1001, [A, B]) >> [StopWorker("a#1", "idle")]


def test_a_second_name_restarts_nothing_and_the_loss_of_one_stops_nothing() -> None:
    twin = named("twin")
    play = loaded(A, B)
    play << LeaseRequested(2, 2, A) >> [GrantLease(2, "a#1")]
    play << desired(3, [A, twin, B]) >> []
    play << LeaseRequested(4, 3, twin) >> [GrantLease(3, "a#1")]
    instance = play.core.tables.instances["a#1"]
    assert (instance.model.name, instance.names) == ("a", ("a", "twin"))
    play << desired(5, [twin, B]) >> []
    assert (instance.model.name, instance.names) == ("twin", ("twin",))
    play << LeaseReleased(6, 2) >> [] << LeaseReleased(6, 3) >> []
    play << desired(7, [B]) >> [StopWorker("a#1", "changed")]


def test_priority_is_that_of_the_name_that_was_asked_for() -> None:
    urgent = named("urgent", priority=5)
    play = house(A, urgent)
    play << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
    play << LeaseRequested(1, 2, urgent) >> []
    play << ready(2, "a#1", 1, 8) >> [GrantLease(2, "a#1")]


def test_any_name_unloads() -> None:
    for name in ("a", "twin"):
        play = loaded(A, named("twin"))
        play << UnloadRequested(2.5, name) >> [StopWorker("a#1", "requested")] << WorkerExited(3, "a#1") >> []


def test_an_unload_by_one_name_gives_up_an_operators_load_by_another() -> None:
    play = house(A, named("twin"))
    play << LeaseRequested(0, 1, A, reason="operator") >> [start("a#1", A, "operator")]
    play << UnloadRequested(1, "twin") >> [Refused(1, Unloaded), StopWorker("a#1", "requested")]


@pytest.mark.parametrize("name", ["a", "twin"])
def test_an_old_version_is_unloaded_by_any_of_its_last_names(name: str) -> None:
    twin = named("twin")
    play = loaded(A, twin, B)
    play << LeaseRequested(2, 2, A) >> [GrantLease(2, "a#1")]
    play << desired(3, [B]) >> []
    assert play.core.tables.versions_of(name) == {A.fingerprint}


@in_virtual_time
async def test_every_name_is_shown_loaded_counted_and_told_of() -> None:
    twin = msgspec.structs.replace(manager_scene.A, name="twin")
    async with manager_scene.house() as home:
        home.told(manager_scene.A, twin)
        heard: list[StatusChange] = []

        async def listen() -> None:
            async for change in home.manager.changes():
                heard.append(change)

        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen())
            await asyncio.sleep(0)
            await home.manager.load(twin)
            await asyncio.sleep(0)  # the listener reads
            view = home.manager.view()
            (instance,) = view.instances
            assert (instance.model, instance.names) == ("twin", ("a", "twin"))
            assert [view.status(name) for name in instance.names] == ["loaded", "loaded"]
            for name in instance.names:
                assert home.value("router_model_loaded", model=name) == 1
            assert home.value("router_swaps_total", model="twin", reason="operator") == 1
            home.told(manager_scene.A)
            assert home.value("router_model_loaded", model="twin") is None
            assert home.manager.unload("a") == 1
            await asyncio.sleep(1)
            assert home.value("router_model_loaded", model="a") == 0
            listening.cancel()
        assert {c.model for c in heard if c.status == "loaded"} == {"a", "twin"}
        assert {c.model for c in heard if c.status == "unloaded"} == {"a", "twin"}
