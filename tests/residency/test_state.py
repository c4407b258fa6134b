from __future__ import annotations

import pytest

from router.domain.models import Limits
from router.residency.state import Failures, Instance, Phase, Tables, Waiter
from tests.residency.playbook import DEVICE, model, on

A, P = model("a", 4), model("p", 3, pinned=True)


def instance(phase: Phase, leases: int = 0) -> Instance:
    return Instance(
        "a#1", A, A.fingerprint, A.placements[0], on(4), "request", phase, slots=2, leases=set(range(leases))
    )


def tables(*held: Instance) -> Tables:
    return Tables(on(10), Limits(), instances={i.id: i for i in held})


def test_memory_is_held_in_every_phase_until_the_process_is_gone() -> None:
    for phase in Phase:
        books = tables(instance(phase))
        assert (books.used, books.free, books.bytes_in(phase)) == (on(4), on(6), on(4))


def test_leases_may_be_granted_while_loading_and_ready_only() -> None:
    assert [phase for phase in Phase if instance(phase).open] == [Phase.LOADING, Phase.READY]
    assert [phase for phase in Phase if tables(instance(phase)).serving(A.fingerprint)] == [
        Phase.LOADING,
        Phase.READY,
    ]


def test_room_and_idleness_are_our_own_bookkeeping() -> None:
    books = tables()
    assert [books.has_room(instance(Phase.READY, n)) for n in range(3)] == [True, True, False]
    assert [instance(Phase.READY, n).idle for n in range(2)] == [True, False]
    assert not instance(Phase.LOADING).idle and not books.has_room(instance(Phase.DRAINING))


@pytest.mark.parametrize(
    ("share", "places"), [(1.0, 2), (0.75, 2), (0.5, 1), (0.125, 1), (0.0, 1), (-1.0, 1)]
)
def test_a_hot_device_leaves_fewer_places_and_always_one(share: float, places: int) -> None:
    books = tables()
    books.shares = {DEVICE: share}
    assert books.places(instance(Phase.READY)) == places
    books.shares = {"gpu7": share}
    assert books.places(instance(Phase.READY)) == 2


def test_a_model_can_have_the_budget_less_what_is_pinned_beside_it() -> None:
    books = tables()
    books.keep = {m.fingerprint: m for m in (A, P)}
    assert books.room_for(A.fingerprint) == on(7)
    assert books.room_for(P.fingerprint) == on(10)
    books.measured[P.fingerprint, P.placements[0].engine] = on(5)
    assert books.room_for(A.fingerprint) == on(5)


def test_a_pinned_model_that_cannot_be_loaded_takes_no_room() -> None:
    books = tables()
    broken = model("p", 3, pinned=True, problem="no such file")
    books.keep = {broken.fingerprint: broken}
    assert books.room_for(A.fingerprint) == on(10)


def test_what_was_measured_counts_for_more_than_the_estimate() -> None:
    books = tables()
    (placement,) = A.placements
    assert books.need(A.fingerprint, placement) == on(4)
    books.measured[A.fingerprint, placement.engine] = on(6)
    assert books.need(A.fingerprint, placement) == on(6)


def test_only_the_registry_of_now_protects_a_pinned_model() -> None:
    pinned = Instance("p#1", P, P.fingerprint, P.placements[0], on(3), "preload", Phase.READY)
    books = tables(pinned)
    assert not books.protected(pinned)
    books.keep = {P.fingerprint: P}
    assert books.protected(pinned)


def test_waiters_are_found_by_version() -> None:
    books = tables()
    books.waiting = {n: Waiter(n, m, m.fingerprint, 0, 9) for n, m in enumerate((A, P, A))}
    assert [w.ticket for w in books.waiting_for(A.fingerprint)] == [0, 2]
    assert books.wanted(P.fingerprint) and not books.wanted("other")


def test_a_model_is_failed_until_its_pause_ends() -> None:
    books = tables()
    books.failures[A.fingerprint] = Failures(until=5.0)
    assert books.failed(A.fingerprint, 4.9) is not None
    assert books.failed(A.fingerprint, 5.0) is None
    assert books.failed("other", 0.0) is None
