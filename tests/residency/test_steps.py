from __future__ import annotations

from router.domain.errors import QueueFull
from router.residency.events import GrantLease, RefuseLease, StopWorker
from router.residency.state import Phase, Waiter
from router.residency.steps import Steps
from tests.residency.playbook import model, on, start

A = model("a", 4)
WAITER = Waiter(1, A, A.fingerprint, 0.0, 9.0)


def steps() -> Steps:
    built = Steps(on(10))
    built._start(A, A.placements[0], "request", 0.0)
    built.tables.instances["a#1"].phase = Phase.READY
    return built


def test_a_start_reserves_its_bytes_and_no_two_instances_share_a_name() -> None:
    built = steps()
    built._start(A, A.placements[0], "operator", 0.0)
    assert built._actions == [start("a#1", A, "request"), start("a#2", A, "operator")]
    assert built.tables.used == on(8)


def test_a_grant_takes_the_waiter_out_of_the_queue_and_counts_at_once() -> None:
    built = steps()
    built.tables.waiting[1] = WAITER
    built._grant(WAITER, built.tables.instances["a#1"], 5.0)
    assert (built.tables.waiting, built.tables.holders) == ({}, {1: "a#1"})
    assert built._actions[-1] == GrantLease(1, "a#1")
    assert built.tables.instances["a#1"].last_used == 5.0


def test_a_refusal_says_what_and_when_to_come_back() -> None:
    built = steps()
    built.tables.waiting[1] = WAITER
    built._refuse(WAITER, (QueueFull, "full", 2.0))
    assert built.tables.waiting == {}
    assert built._actions[-1] == RefuseLease(1, QueueFull, "full", 2.0)


def test_an_idle_victim_is_stopped_at_once_and_a_busy_one_drains() -> None:
    built = steps()
    instance = built.tables.instances["a#1"]
    instance.leases.add(7)
    built._evict(instance)
    assert (instance.phase, instance.leaving, instance.victim) == (Phase.DRAINING, "pressure", True)
    instance.leases.clear()
    built._evict(instance)
    assert instance.phase is Phase.STOPPING
    assert built._actions[-1] == StopWorker("a#1", "pressure")


def test_who_stops_already_does_not_drain_again() -> None:
    built = steps()
    instance = built.tables.instances["a#1"]
    for phase in (Phase.STOPPING, Phase.QUARANTINED):
        instance.phase = phase
        built._drain(instance, "changed")
        assert instance.phase is phase
