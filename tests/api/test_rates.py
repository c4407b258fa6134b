"""Requests a minute, for each key."""

from __future__ import annotations

import pytest

from router.api.errors import RateLimited
from router.api.rates import Rates
from router.registry.loader import Key

TWO = Key("two", "", ("*",), rpm=2)


def test_in_any_minute_a_key_sends_what_it_may_and_no_more() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    rates.admit(TWO)
    now[0] = 50
    rates.admit(TWO)
    with pytest.raises(RateLimited) as refused:
        rates.admit(TWO)
    assert refused.value.retry_after == 10
    now[0] = 60
    rates.admit(TWO)
    with pytest.raises(RateLimited):
        rates.admit(TWO)


def test_keys_do_not_count_for_each_other_and_none_without_a_limit() -> None:
    rates = Rates(lambda: 0.0)
    for _ in range(2):
        rates.admit(TWO)
    rates.admit(Key("other", "", ("*",), rpm=2))
    for _ in range(1000):
        rates.admit(None)
        rates.admit(Key("free", "", ("*",)))


def test_what_is_refused_does_not_count() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    for _ in range(2):
        rates.admit(TWO)
    for now[0] in (10.0, 20.0, 30.0):
        with pytest.raises(RateLimited):
            rates.admit(TWO)
    now[0] = 60.0
    rates.admit(TWO)
