from __future__ import annotations

import msgspec
import pytest

from router.domain.models import Footprint
from router.residency.core import Residency
from router.residency.events import LeaseRequested, WorkerExited
from router.residency.report import Report
from router.telemetry import Metrics
from tests.residency.playbook import desired, model, on, ready

A, B = model("a", 6), model("b", 7)


class Desk:
    def __init__(self) -> None:
        self.core = Residency(on(10))
        self.metrics = Metrics()
        self.report = Report(self.metrics, self.core.tables)
        self.core.handle(desired(0, [A, B], 10))

    def value(self, name: str, **labels: str) -> float | None:
        self.metrics.render()
        return self.metrics.registry.get_sample_value(f"router_{name}", labels)

    def device(self) -> dict[str, float | None]:
        kinds = ("budget", "used", "reserved", "free")
        return {kind: self.value("device_bytes", device="gpu0", kind=kind) for kind in kinds}


def test_the_gauges_of_the_device_follow_the_books_at_each_scrape() -> None:
    desk = Desk()
    assert desk.device() == {"budget": 10, "used": 0, "reserved": 0, "free": 10}
    desk.core.handle(LeaseRequested(0, 1, A))
    assert desk.device() == {"budget": 10, "used": 0, "reserved": 6, "free": 4}
    desk.core.handle(ready(1, "a#1", 1, 5))
    assert desk.device() == {"budget": 10, "used": 5, "reserved": 0, "free": 5}


def test_the_gauges_of_a_model_follow_the_books() -> None:
    desk = Desk()
    desk.core.handle(LeaseRequested(0, 1, A))
    desk.core.handle(LeaseRequested(0, 2, A))
    assert desk.value("model_bytes", model="a", kind="estimated") == 6
    assert desk.value("model_bytes", model="a", kind="measured") is None
    assert (desk.value("model_loaded", model="a"), desk.value("waiting_requests", model="a")) == (0, 2)
    assert desk.value("model_bytes_error_ratio", model="a") is None
    desk.core.handle(ready(1, "a#1", 1, 5))
    assert (desk.value("model_loaded", model="a"), desk.value("waiting_requests", model="a")) == (1, 1)
    assert desk.value("model_bytes_error_ratio", model="a") == pytest.approx(6 / 5 - 1)
    assert desk.value("slots_busy", model="a") == 1
    assert desk.value("model_bytes", model="a", kind="measured") == 5


def test_what_was_measured_before_a_restart_is_known_at_once() -> None:
    (way,) = A.placements
    known = msgspec.structs.replace(way, measured={"gpu0": Footprint(4)})
    desk = Desk()
    desk.core.handle(desired(0, [msgspec.structs.replace(A, placements=(known,))], 10))
    assert desk.value("model_bytes", model="a", kind="measured") == 4
    assert desk.value("model_bytes_error_ratio", model="a") == 0.5


def test_decisions_are_counted_by_model_and_reason() -> None:
    desk = Desk()
    desk.core.handle(LeaseRequested(0, 1, A))
    desk.report.starting("a#1", A, "request")
    desk.report.ready("a#1", A, "request", on(5), 1.0)
    desk.report.granted(1.0)
    desk.report.stopping("a#1", A, "pressure", was_ready=True)
    desk.report.stopping("a#1", A, "changed", was_ready=False)  # it never was in memory
    desk.report.died("a#1", A, "boom", was_ready=True)
    desk.report.died("a#1", A, "boom", was_ready=False)
    desk.report.refused("QueueFull", "too many")
    assert desk.value("swaps_total", model="a", reason="request") == 1
    assert desk.value("evictions_total", model="a", reason="pressure") == 1
    assert desk.value("evictions_total", model="a", reason="changed") is None
    assert desk.value("evictions_total", model="a", reason="crashed") == 1
    assert desk.value("worker_restarts_total", model="a") == 2
    assert desk.value("queue_wait_seconds_count") == 1


def test_a_model_that_left_the_registry_leaves_the_metrics_once_its_last_worker_is_gone() -> None:
    desk = Desk()
    desk.core.handle(LeaseRequested(0, 1, A))
    desk.core.handle(ready(1, "a#1", 1, 5))
    desk.report.ready("a#1", A, "request", on(5), 1.0)
    desk.metrics.render()
    desk.core.handle(desired(2, [B], 10))
    assert desk.value("swaps_total", model="a", reason="request") == 1
    desk.core.handle(WorkerExited(3, "a#1", "boom"))
    assert 'model="a"' not in desk.metrics.render().decode()
    assert 'model="b"' in desk.metrics.render().decode()


def test_series_do_not_pile_up_over_edits() -> None:
    desk = Desk()
    sizes = set()
    for number in range(5):
        named = msgspec.structs.replace(A, name=f"model-{number}", path=f"/{number}.gguf")
        desk.core.handle(desired(number, [named], 10))
        sizes.add(len(desk.metrics.render().splitlines()))
    assert len(sizes) == 1
