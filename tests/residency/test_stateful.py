"""The state machine finds nothing to complain of in the real core."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.residency.stateful import HouseMachine


def test_no_short_story_breaks_a_house_rule() -> None:
    run_state_machine_as_test(
        HouseMachine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
