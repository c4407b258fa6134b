"""The names that dashboards know, and a log that machines and people can read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import Counter, Gauge, Histogram, Summary
from prometheus_client.parser import text_string_to_metric_families

from router import __version__
from router.api.app import TABLE as ROUTES
from router.api.errors import TABLE, UNEXPECTED
from router.telemetry import Metrics, configure_logging, logger, observing


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def scraped(metrics: Metrics) -> dict[str, list[dict[str, str]]]:
    """Sample name -> the labels of each sample."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_metrics_have_the_names_that_dashboards_know() -> None:
    metrics = Metrics()
    metrics.swaps.labels("m", "request").inc()
    metrics.evictions.labels("m", "idle").inc()
    metrics.worker_restarts.labels("m").inc()
    metrics.requests.labels("m", "200", "stop").inc()
    metrics.route_requests.labels("chat", "200").inc()
    metrics.tokens.labels("m", "prompt").inc()
    metrics.prompt_cache_tokens.labels("m").inc()
    metrics.observe_load("m", "weights", 1.0)
    metrics.device_bytes.labels("host", "budget").set(1)
    metrics.model_bytes.labels("m", "estimated").set(1)
    metrics.registry_reloads.labels("applied").inc()
    names = scraped(metrics)
    assert names["router_requests_total"] == [{"model": "m", "code": "200", "finish": "stop"}]
    assert names["router_swaps_total"] == [{"model": "m", "reason": "request"}]
    assert {
        "router_evictions_total",
        "router_worker_restarts_total",
        "router_tokens_total",
        "router_prompt_cache_tokens_total",
        "router_route_requests_total",
        "router_load_seconds_sum",
        "router_load_phase_seconds_bucket",
        "router_queue_wait_seconds_count",
        "router_time_to_first_token_seconds_count",
        "router_inter_token_seconds_count",
        "router_device_bytes",
        "router_model_bytes",
        "router_registry_reloads_total",
        "router_broken_models",
    } <= names.keys()
    assert names["router_build_info"] == [{"version": __version__}]
    assert not any(name.endswith("_created") for name in names)


def worst_case(metrics: Metrics, model: str) -> None:
    """Everything that can ever be said of one model: each status of an error, each end, each reason."""
    finishes = ("stop", "length", "error", "left")
    # The api's own errors come before the model is known, and are counted as nobody's.
    rows = [row for kind, row in TABLE.items() if kind.__module__ != "router.api.errors"]
    refused = {str(row.status) for row in (*rows, UNEXPECTED)}
    outcomes = [*(("200", f) for f in finishes), *((code, "error") for code in refused), ("499", "left")]
    for code, finish in outcomes:
        metrics.requests.labels(model, code, finish).inc()
        for route in {row.counted for row in ROUTES if row.counted}:
            metrics.route_requests.labels(route, code).inc()
    for reason in ("request", "preload", "operator", "spill"):
        metrics.swaps.labels(model, reason).inc()
    for reason in ("cold", "busy"):
        metrics.spills.labels(model, reason).inc()
    for reason in ("idle", "requested", "pressure", "changed", "crashed", "oom"):
        metrics.evictions.labels(model, reason).inc()
    for direction in ("prompt", "completion"):
        metrics.tokens.labels(model, direction).inc()
    for phase in ("start", "weights"):
        metrics.observe_load(model, phase, 1.0)
    for kind in ("estimated", "measured"):
        metrics.model_bytes.labels(model, kind).set(1)
    metrics.model_bytes_error.labels(model).set(0)
    for once in (metrics.worker_restarts, metrics.prompt_cache_tokens):
        once.labels(model).inc()
    for gauge in (metrics.model_loaded, metrics.slots_busy, metrics.waiting):
        gauge.labels(model).set(1)


def series(metrics: Metrics) -> int:
    return sum(map(len, scraped(metrics).values()))


def test_g21_a_model_has_at_most_40_series_whatever_happens_to_it() -> None:
    metrics = Metrics()
    before = series(metrics)
    worst_case(metrics, "first")
    shared = series(metrics)
    worst_case(metrics, "second")
    assert series(metrics) - shared <= 40
    assert before < shared <= 40 + 200
    metrics.forget("second")
    assert series(metrics) == shared


def test_no_metric_of_a_model_was_left_out_of_the_worst_case() -> None:
    metrics = Metrics()
    worst_case(metrics, "m")
    described = {name for name, labels in labelled(metrics).items() if "model" in labels}
    said = {family for family, labels in scraped(metrics).items() if any("model" in one for one in labels)}
    assert {n for n in described if not any(s.startswith(n) for s in said)} == set()


def labelled(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """Metric name -> its labels."""
    held = (
        value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram | Summary)
    )
    return {metric._name: metric._labelnames for metric in held}


def test_two_gateways_in_one_process_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.swaps.labels("m", "request").inc()
    assert "router_swaps_total" not in scraped(other)


def test_gauges_are_brought_up_to_date_just_before_they_are_read() -> None:
    metrics = Metrics()
    metrics.on_scrape(lambda: metrics.model_loaded.labels("m").set(1))
    assert scraped(metrics)["router_model_loaded"] == [{"model": "m"}]


def test_the_log_is_one_json_object_a_line_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    logger("api").info("request", model="m", ms=1.5)
    logger("api").debug("too much")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["room"], entry["model"], entry["level"]) == ("request", "api", "m", "info")
    assert entry["timestamp"].endswith("Z")


def test_the_log_tells_an_exception_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    logger("api").error("unexpected error", exc_info=ValueError("why"))
    assert "ValueError: why" in json.loads(capsys.readouterr().err)["exception"]


def test_the_log_is_for_people_where_they_ask_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", json=False)
    logger("api").info("quiet")
    logger("api").warning("loud")
    text = capsys.readouterr().err
    assert "loud" in text
    assert "quiet" not in text


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(KeyError):
        configure_logging("shout")


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_cannot_be_rendered_costs_its_facts_and_never_whoever_logs_it(
    capsys: pytest.CaptureFixture[str], json_lines: bool
) -> None:
    configure_logging("info", json=json_lines)
    logger("api").info("request", model=Unspeakable())
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line) == {"event": "request", "level": "info", "not_rendered": "ValueError"}


def test_an_observation_that_fails_is_logged_and_goes_no_further(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)

    class Watch:
        @observing
        def saw(self, what: str) -> None:
            raise OSError(f"{what}: no space left")

    Watch().saw("swap")
    entry = json.loads(capsys.readouterr().err)
    assert entry["event"] == "an observation failed"
    assert entry["of"].endswith("Watch.saw")
    assert "OSError: swap: no space left" in entry["exception"]
