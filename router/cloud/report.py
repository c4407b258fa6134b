"""
The cloud as metrics and `/running` show it.

The one rule: labels are names of the registry or words of a fixed list; a key is nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from router.cloud.breaker import State
from router.cloud.spend import Spent
from router.domain.upstreams import MICRO, Upstream
from router.telemetry import Metrics


class UpstreamView(msgspec.Struct, frozen=True):
    """One upstream now. Money is micro-dollars, `retry_after` seconds."""

    upstream: Upstream
    breaker: State
    retry_after: float
    """Until a request has a chance; 0 = now."""
    in_flight: int
    spent: Spent


class Report:
    """Outcomes are counted as they come; gauges are brought up to date at each scrape."""

    def __init__(self, metrics: Metrics, views: Callable[[], Iterable[UpstreamView]]) -> None:
        self._metrics = metrics
        self._views = views
        metrics.on_scrape(self._refresh)

    def ended(self, upstream: str, outcome: str) -> None:
        """outcome: ok | left | refused | broken | over_budget | spend_unknown | a reason of UpstreamUnavailable"""
        self._metrics.cloud_requests.labels(upstream, outcome).inc()

    def cost(self, upstream: str, micro: int) -> None:
        if micro:
            self._metrics.cloud_spend.labels(upstream).inc(micro / MICRO)

    def forget(self, upstream: str) -> None:
        self._metrics.forget_upstream(upstream)

    def _refresh(self) -> None:
        for view in self._views():
            name, budget, spent = view.upstream.name, view.upstream.budget, view.spent
            for state in State:
                self._metrics.cloud_breaker_state.labels(name, state.value).set(view.breaker is state)
            self._show(name, "day", budget.day, spent.day)
            self._show(name, "month", budget.month, spent.month)

    def _show(self, name: str, window: str, limit: int | None, spent: int) -> None:
        for kind, micro in (("limit", limit), ("spent", spent)):
            if limit is not None and micro is not None:
                self._metrics.cloud_budget.labels(name, window, kind).set(micro / MICRO)
            else:
                # A budget that an edit took away leaves no series behind.
                self._metrics.cloud_budget.remove_by_labels(
                    {"upstream": name, "window": window, "kind": kind}
                )
