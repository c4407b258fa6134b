"""What becomes of a request when a candidate could not answer it."""

from __future__ import annotations

import pytest

from router.domain import errors
from router.routing import failover

FULL = errors.QueueFull("full", 5.0)
NEVER = errors.DoesNotFit("too large")
NOT_NOW = errors.DoesNotFitNow("taken", 120.0)
DOWN = errors.UpstreamUnavailable("down", "big", "connect")
SPENT = errors.OverBudget("spent", "big", "day", 3600.0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "refused"),
        (errors.LeaseTimeout("late"), "deadline"),
        (NEVER, "memory"),
        (NOT_NOW, "memory"),
        (errors.LoadFailed("no"), "load"),
        (errors.WorkerCrashed("gone"), "crash"),
        (errors.Unsupported("tools"), "unsupported"),
        (DOWN, "upstream"),
        (SPENT, "budget"),
        (errors.SpendUnknown("?", "big"), "budget"),
    ],
)
def test_after_these_the_next_candidate_is_asked(error: errors.RouterError, reason: str) -> None:
    assert failover.reason(error) == reason


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest("bad"),
        errors.ContextOverflow(10, 20),
        errors.UnknownModel("x"),
        errors.ShuttingDown("bye"),
        errors.ModelBusy("a", 1),
        errors.UpstreamRefused("bad", "big", 400, "invalid_request_error", None, None),
        errors.UpstreamBroken("cut", "big"),
        errors.PolicyRefused("never", "big"),
        errors.RegistryInvalid(["x"]),
    ],
)
def test_after_all_others_the_request_ends(error: errors.RouterError) -> None:
    assert failover.reason(error) is None


def test_a_crash_has_cost_two_tries() -> None:
    assert failover.tries(errors.WorkerCrashed("gone")) == 2
    assert failover.tries(DOWN) == 1


def test_the_error_told_is_of_whoever_can_be_asked_again_soonest_else_the_last() -> None:
    assert failover.told([FULL, SPENT]) is FULL
    assert failover.told([SPENT, FULL]) is FULL
    assert failover.told([NEVER, SPENT]) is SPENT
    assert failover.told([NEVER, DOWN]) is DOWN
    assert failover.told([NOT_NOW, SPENT, NEVER]) is NOT_NOW
    assert failover.told([DOWN]) is DOWN
