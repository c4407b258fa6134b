"""What the stories of `test_core.py` and its siblings start from."""

from __future__ import annotations

from router.domain.errors import (
    LoadFailed,
)
from router.residency.events import (
    GrantLease,
    LeaseReleased,
    LeaseRequested,
    WorkerExited,
)
from tests.residency.playbook import Play, Refused, house, model, ready, start

A, B, C = model("a", 8), model("b", 6), model("c", 3)


def a_ready(**options: object) -> Play:
    """A is in memory and idle; it came at time 1 and was used once, until 2."""
    return (
        house(A, B, C, **options)  # type: ignore[arg-type]
        << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
        << ready(1, "a#1", slots=2, resident=8) >> [GrantLease(1, "a#1")]
        << LeaseReleased(2, 1) >> []
    )  # fmt: skip


def a_busy(**options: object) -> Play:
    """A is in memory and serves ticket 1."""
    return (
        house(A, B, C, **options)  # type: ignore[arg-type]
        << LeaseRequested(0, 1, A) >> [start("a#1", A, "request")]
        << ready(1, "a#1", slots=2, resident=8) >> [GrantLease(1, "a#1")]
    )  # fmt: skip


def crash(play: Play, at: float, number: int, ticket: int) -> None:
    """A request comes at `at`; its worker dies while it loads."""
    play << LeaseRequested(at, ticket, C) >> [start(f"c#{number}", C, "request")]
    play << WorkerExited(at, f"c#{number}", "boom") >> [Refused(ticket, LoadFailed)]
