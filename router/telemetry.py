"""
Every metric and the log format, in one table.

The one rule: label values come from the registry or from a fixed list, never from a request.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, ParamSpec, TypeVar

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.samples import Sample

from router import __version__, log_sink

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# No buckets and no second long label where there is a model label: at most 40 series a model (G21).
_LOAD_BUCKETS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 120.0)
_WAIT_BUCKETS = (0.01, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 120.0)
_FIRST_TOKEN_BUCKETS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)
_INTER_TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0, 5.0)


_Metric = TypeVar("_Metric", Counter, Gauge, Histogram, Summary)
_P = ParamSpec("_P")
_JSON = structlog.processors.JSONRenderer(default=repr)


class Metrics:
    """One instance a gateway, with a registry of its own, so that two gateways in one test do not meet."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        self._refreshers: list[Callable[[], None]] = []
        self._by_model: list[Counter | Gauge | Histogram | Summary] = []
        self._by_upstream: list[Counter | Gauge | Histogram | Summary] = []
        self._add_counters()
        self._add_times()
        self._add_gauges()
        self._add_cloud()

    def _add_counters(self) -> None:
        self.swaps = self._counter("router_swaps", "Models brought into memory", "model", "reason")
        """reason: request | preload | operator | spill (in the background, after requests that others answered)"""
        self.evictions = self._counter("router_evictions", "Models that left memory", "model", "reason")
        """reason: idle (ttl) | requested | pressure | abandoned (a load without waiters) | changed | crashed | oom"""
        self.worker_restarts = self._counter("router_worker_restarts", "Workers that died unasked", "model")
        self.requests = self._counter("router_requests", "Requests by outcome", "model", "code", "finish")
        """code: HTTP status; finish: stop | length | error | left"""
        self.route_requests = self._counter(
            "router_route_requests", "The same requests by endpoint", "route", "code"
        )
        """route: chat | completions | embeddings"""
        self.tokens = self._counter("router_tokens", "Tokens by direction", "model", "direction")
        """direction: prompt | completion"""
        self.prompt_cache_tokens = self._counter(
            "router_prompt_cache_tokens", "Prompt tokens found in a slot and not computed again", "model"
        )
        self.registry_reloads = self._counter("router_registry_reloads", "Registry edits seen", "outcome")
        """outcome: applied | refused"""
        self.unknown_fields = self._counter(
            "router_unknown_fields", "Fields of requests that no known schema has, ignored", "route"
        )
        """route: chat | completions | embeddings"""
        self.log_lines_dropped = self._counter(
            "router_log_lines_dropped", "Log lines that standard error could not take"
        )
        self._lines_dropped_before = 0
        self.on_scrape(self._count_dropped_lines)

    def _add_times(self) -> None:
        self.load_seconds = self._kept(
            Summary(
                "router_load_seconds",
                "Time to bring a model into memory",
                ("model", "phase"),
                registry=self.registry,
            ),
            ("model", "phase"),
        )
        """phase: start (process and its greeting) | weights"""
        self.load_phase_seconds = self._histogram(
            "router_load_phase_seconds", "The same for all models, in buckets", _LOAD_BUCKETS, "phase"
        )
        self.queue_wait = self._histogram("router_queue_wait_seconds", "Wait for a lease", _WAIT_BUCKETS)
        self.first_token = self._histogram(
            "router_time_to_first_token_seconds", "Request to first token", _FIRST_TOKEN_BUCKETS
        )
        self.inter_token = self._histogram(
            "router_inter_token_seconds", "Time between the tokens of an answer", _INTER_TOKEN_BUCKETS
        )

    def _add_gauges(self) -> None:
        self.device_temperature = self._gauge(
            "router_device_temperature_celsius", "How hot a device is", "device"
        )
        self.device_slowed = self._gauge(
            "router_device_slowed", "1 while this reason lowers a device's clocks", "device", "reason"
        )
        self.device_pace = self._gauge(
            "router_device_pace_ratio", "Share of their slots that models on a device may use", "device"
        )
        """Below 1 only while it is or was at its max_temperature."""
        self.device_bytes = self._gauge("router_device_bytes", "Bytes of a device's memory", "device", "kind")
        """kind: budget | used (resident) | reserved (loading, leaving) | quarantined (not reaped) | strangers | free"""
        self.model_bytes_error = self._gauge(
            "router_model_bytes_error_ratio", "Estimated bytes against measured ones, less 1", "model"
        )
        self.model_bytes = self._gauge("router_model_bytes", "Bytes a model needs", "model", "kind")
        """kind: estimated | measured"""
        self.broken_models = self._gauge(
            "router_broken_models", "Models of the registry that cannot be loaded as it is"
        )
        self.model_loaded = self._gauge("router_model_loaded", "1 while the model is ready", "model")
        self.slots_busy = self._gauge("router_slots_busy", "Slots with a running request", "model")
        self.waiting = self._gauge("router_waiting_requests", "Requests that wait for a lease", "model")
        self.tasks = self._gauge("router_tasks", "Asyncio tasks of the gateway; grows only with its work")
        info = self._gauge("router_build_info", "1, with the version as a label", "version")
        info.labels(__version__).set(1)

    def _add_cloud(self) -> None:
        self.fallbacks = self._counter(
            "router_fallbacks", "Candidates that could not answer, the next was asked", "reason"
        )
        """reason: refused | deadline | memory | load | crash | unsupported | upstream | budget"""
        self.spills = self._counter(
            "router_spills",
            "Requests that others answered, since the wait for this model was too long",
            "model",
            "reason",
        )
        """reason: cold (not in memory) | busy"""
        self.cloud_requests = self._counter(
            "router_cloud_requests", "Calls to an upstream by outcome", "upstream", "outcome"
        )
        """outcome: ok | left | refused | broken | forbidden | over_budget | spend_unknown | why it was unavailable"""
        self.cloud_spend = self._counter(
            "router_cloud_spend_usd", "US dollars spent since the start", "upstream"
        )
        self.cloud_budget = self._gauge(
            "router_cloud_budget_usd", "Budgets in US dollars", "upstream", "window", "kind"
        )
        """window: day | month; kind: limit | spent"""
        self.cloud_breaker_state = self._gauge(
            "router_cloud_breaker_state",
            "1 for the state that an upstream's breaker is in",
            "upstream",
            "state",
        )
        """state: closed | open | half_open"""

    def _count_dropped_lines(self) -> None:
        before, self._lines_dropped_before = self._lines_dropped_before, log_sink.dropped()
        self.log_lines_dropped.inc(self._lines_dropped_before - before)

    def observe_load(self, model: str, phase: str, seconds: float) -> None:
        self.load_seconds.labels(model, phase).observe(seconds)
        self.load_phase_seconds.labels(phase).observe(seconds)

    def on_scrape(self, refresh: Callable[[], None]) -> None:
        """Register a function that brings gauges up to date just before they are read."""
        self._refreshers.append(refresh)

    def forget(self, model: str) -> None:
        """Drop every series of a model that left the registry, so that edits do not pile up series."""
        for metric in self._by_model:
            metric.remove_by_labels({"model": model})

    def forget_upstream(self, upstream: str) -> None:
        """The same for an upstream."""
        for metric in self._by_upstream:
            metric.remove_by_labels({"upstream": upstream})

    def render(self) -> bytes:
        """What a scrape gets."""
        self.refresh()
        return self.text()

    def refresh(self) -> None:
        for refresh in self._refreshers:
            refresh()

    def text(self, known: Callable[[str], str | None] | None = None) -> bytes:
        """
        The text exposition format. From any thread.

        `known`: what a reader who may not see all calls a model or upstream; None of a name leaves its series out.
        """
        return generate_latest(self.registry if known is None else _Excerpt(self.registry, known))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._kept(Counter(name, text, labels, registry=self.registry), labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return self._kept(Gauge(name, text, labels, registry=self.registry), labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return self._kept(Histogram(name, text, labels, buckets=buckets, registry=self.registry), labels)

    def _kept(self, metric: _Metric, labels: tuple[str, ...]) -> _Metric:
        if "model" in labels:
            self._by_model.append(metric)
        if "upstream" in labels:
            self._by_upstream.append(metric)
        return metric


class _Excerpt:
    """The series of a registry that one reader may see."""

    def __init__(self, registry: CollectorRegistry, known: Callable[[str], str | None]) -> None:
        self._registry = registry
        self._known = known

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            seen = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            seen.samples = [found for sample in metric.samples if (found := self._seen(sample))]
            yield seen

    def _seen(self, sample: Sample) -> Sample | None:
        labels = dict(sample.labels)
        for label in ("model", "upstream"):
            if label in labels:
                name = self._known(labels[label])
                if name is None:
                    return None
                labels[label] = name
        return sample._replace(labels=labels)


def configure_logging(level: str = "info", json: bool | None = None) -> None:
    """
    Log to stderr: JSON lines, or for people when stderr is a terminal (`json=None` decides by that).

    Whoever must go on whatever stderr is calls `log_sink.protect_streams` before.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if as_json else _for_people
    structlog.configure(
        processors=[*shared, functools.partial(_rendered, renderer)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _for_people(log: Any, method: str, facts: MutableMapping[str, Any]) -> str:
    """A line for a terminal, that no client can colour, move or forge: what cannot be printed is escaped."""
    for name, value in facts.items():
        if isinstance(value, str) and not value.isprintable():
            kept = "\n\t" if name == "exception" else ""
            facts[name] = "".join(c if c.isprintable() or c in kept else _escaped(c) for c in value)
    return str(structlog.dev.ConsoleRenderer()(log, method, facts))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _rendered(renderer: Any, log: Any, method: str, facts: MutableMapping[str, Any]) -> str:
    """The line. What cannot be rendered costs its facts, and never whoever logs it."""
    event, level = str(facts.get("event")), facts.get("level")
    try:
        return str(renderer(log, method, structlog.processors.format_exc_info(log, method, facts)))
    except Exception as error:
        return str(_JSON(log, method, {"event": event, "level": level, "not_rendered": type(error).__name__}))


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing is logged meanwhile: for a command that tells all that it has to tell by itself."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def logger(room: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one room. Events are short sentences; facts go into key=value pairs."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(room=room)
    return bound


def observing(method: Callable[_P, None]) -> Callable[_P, None]:
    """
    For what only tells of a decision (a counter, a gauge, a log line): an error in it is logged and goes no further.
    """

    @functools.wraps(method)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            logger("telemetry").exception("an observation failed", of=method.__qualname__)

    return guarded
