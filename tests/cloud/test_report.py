"""The cloud in metrics."""

from __future__ import annotations

import msgspec

from router.cloud.breaker import State
from router.cloud.report import Report, UpstreamView
from router.cloud.spend import Spent
from router.domain.upstreams import Budget, Upstream
from router.telemetry import Metrics

BIG = Upstream("big", "https://x/v1", "m", budget=Budget(day=5_000_000))
VIEW = UpstreamView(BIG, State.OPEN, 3.0, 1, Spent(1_250_000, 2_000_000, 10))


def test_state_and_budgets_are_as_they_are_at_the_scrape() -> None:
    metrics, views = Metrics(), [VIEW]
    Report(metrics, lambda: views)
    text = metrics.render().decode()
    assert 'router_cloud_breaker_state{state="open",upstream="big"} 1.0' in text
    assert 'router_cloud_breaker_state{state="closed",upstream="big"} 0.0' in text
    assert 'router_cloud_budget_usd{kind="limit",upstream="big",window="day"} 5.0' in text
    assert 'router_cloud_budget_usd{kind="spent",upstream="big",window="day"} 1.25' in text
    assert 'window="month"' not in text
    views[:] = [msgspec.structs.replace(VIEW, breaker=State.CLOSED)]
    assert 'router_cloud_breaker_state{state="open",upstream="big"} 0.0' in metrics.render().decode()


def test_outcomes_and_costs_are_counted_and_forgotten() -> None:
    metrics = Metrics()
    report = Report(metrics, lambda: ())
    report.ended("big", "ok")
    report.cost("big", 1_500_000)
    text = metrics.render().decode()
    assert 'router_cloud_requests_total{outcome="ok",upstream="big"} 1.0' in text
    assert 'router_cloud_spend_usd_total{upstream="big"} 1.5' in text
    report.forget("big")
    assert 'upstream="big"' not in metrics.render().decode()


def test_a_budget_that_was_lifted_leaves_no_series() -> None:
    metrics, views = Metrics(), [VIEW]
    Report(metrics, lambda: views)
    metrics.render()
    views[:] = [msgspec.structs.replace(VIEW, upstream=Upstream("big", "https://x/v1", "m"))]
    assert "router_cloud_budget_usd{" not in metrics.render().decode()
