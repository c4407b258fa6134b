"""Prices, budgets and what a request costs."""

from __future__ import annotations

from decimal import Decimal

from router.domain.upstreams import Price, Upstream, micro_of, usd


def test_a_price_is_dollars_a_million_tokens_and_a_cost_micro_dollars() -> None:
    assert Price(Decimal("2.5"), Decimal(10)).of(1000, 200) == 2500 + 2000


def test_a_cost_is_rounded_up_and_a_budget_down() -> None:
    assert Price(Decimal("0.075"), Decimal("0.3")).of(1, 0) == 1
    assert micro_of(Decimal("0.0000019")) == 1


def test_prices_are_exact_where_floats_are_not() -> None:
    assert Price(Decimal("0.1"), Decimal("0.2")).of(10, 10) == 3


def test_an_upstream_without_a_price_is_free() -> None:
    assert Upstream("box", "http://box/v1", "m").cost(10**9, 10**9) == 0


def test_dollars_are_written_with_six_digits() -> None:
    assert usd(150) == "0.000150"
    assert usd(12_345_678) == "12.345678"
