"""Whether a failed call is tried once more."""

from __future__ import annotations

import pytest

from router.cloud.retries import RetryBudget, pause_before_retry
from router.domain.errors import UpstreamUnavailable


def test_three_retries_in_ten_seconds_are_always_allowed() -> None:
    budget = RetryBudget()
    assert [budget.take(0.0) for _ in range(5)] == [True, True, True, False, False]
    assert budget.take(10.0)


def test_of_many_requests_one_in_ten_may_be_tried_again() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.note_request(0.0)
    assert sum(budget.take(1.0) for _ in range(100)) == 10
    assert sum(budget.take(20.0) for _ in range(100)) == 3


def failed(reason: str, retry_after: float | None = None) -> UpstreamUnavailable:
    return UpstreamUnavailable("x", "big", reason, retry_after)


@pytest.mark.parametrize("reason", ["connect", "cut", "status"])
def test_a_passing_failure_is_tried_again_after_a_moment_that_differs(reason: str) -> None:
    assert pause_before_retry(failed(reason), 0.0) == pytest.approx(0.05)
    assert pause_before_retry(failed(reason), 1.0) == pytest.approx(0.15)


@pytest.mark.parametrize(
    "reason", ["timeout", "tls", "address", "key", "setup", "protocol", "too_large", "busy", "open"]
)
def test_what_would_fail_again_or_was_perhaps_paid_is_not(reason: str) -> None:
    assert pause_before_retry(failed(reason), 0.5) is None


def test_a_retry_after_is_waited_for_if_it_is_short() -> None:
    assert pause_before_retry(failed("rate_limited", 2.0), 0.0) == 2.0
    assert pause_before_retry(failed("rate_limited", 2.1), 0.0) is None
    assert pause_before_retry(failed("rate_limited"), 0.0) is None
    assert pause_before_retry(failed("status", 1.5), 0.0) == 1.5
