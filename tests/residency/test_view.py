from __future__ import annotations

import msgspec
import pytest

from router.domain.models import Footprint, Limits, LocalModel
from router.protocol import EngineGauges
from router.residency.core import Residency
from router.residency.events import (
    LeaseReleased,
    LeaseRequested,
    WorkerExited,
)
from router.residency.view import DeviceView, HouseView, WorkerView, describe_wait, house_view
from tests.residency.playbook import changed, desired, model, on, ready

A, B, C = model("a", 6), model("b", 5), model("c", 2)


def core() -> Residency:
    """A loads, B waits for its memory, C is ready and idle since 3."""
    built = Residency(on(10))
    built.handle(desired(0, [A, B, C], 10))
    built.handle(LeaseRequested(0, 1, C))
    built.handle(ready(1, "c#1", 1, 2))
    built.handle(LeaseRequested(2, 2, A))
    built.handle(LeaseReleased(3, 1))
    built.handle(LeaseRequested(4, 3, A))
    built.handle(LeaseRequested(4, 4, B))
    return built


def look(built: Residency, now: float = 5.0, **workers: WorkerView) -> HouseView:
    return house_view(built.tables, now, {name.replace("_", "#"): w for name, w in workers.items()})


def test_the_bytes_add_up_to_the_budget() -> None:
    view = look(core())
    assert view.devices == {"gpu0": DeviceView(budget=10, used=2, reserved=6, free=2)}
    assert view.memory == view.devices["gpu0"]


def test_an_instance_is_shown_with_what_the_core_and_the_shell_know() -> None:
    worker = WorkerView(1.0, 77, Footprint(weights=2), EngineGauges(slots_busy=1))
    shown = look(core(), c_1=worker).instances[0]
    assert (shown.id, shown.model, shown.phase, shown.pid) == ("c#1", "c", "ready", 77)
    assert (shown.idle_seconds, shown.expires_in) == (2.0, 598.0)
    assert shown.measured == Footprint(weights=2) and shown.estimated == C.footprint
    assert shown.gauges == EngineGauges(slots_busy=1)


def test_a_model_that_never_expires_says_so() -> None:
    built = core()
    lasting, pinned = msgspec.structs.replace(C, ttl=None), msgspec.structs.replace(C, pinned=True)
    for each in (lasting, pinned):
        built.handle(desired(4, [A, B, each], 10))
        assert look(built).instances[0].expires_in is None


def test_statuses() -> None:
    view = look(core())
    assert [view.status(name) for name in ("a", "b", "c", "nobody")] == [
        "loading",
        "unloaded",
        "loaded",
        "unloaded",
    ]
    assert view.waiting == {"a": 2, "b": 1}


def test_a_failed_model_is_failed_with_its_reason_until_its_pause_ends() -> None:
    built = Residency(on(10), Limits(failures=1, backoff=5))
    built.handle(desired(0, [A], 10, Limits(failures=1, backoff=5)))
    built.handle(LeaseRequested(0, 1, A))
    built.handle(WorkerExited(1, "a#1", "bad magic"))
    assert look(built, 2).status("a") == "failed"
    assert look(built, 2).failed == {"a": "bad magic"}
    assert look(built, 6).status("a") == "unloaded"


def test_a_model_with_a_problem_is_failed_with_it() -> None:
    built = Residency(on(10))
    built.handle(desired(0, [model("broken", 1, problem="no such file")], 10))
    assert look(built).failed == {"broken": "no such file"}
    assert look(built).status("broken") == "failed"


def test_a_model_of_two_names_is_loaded_under_both() -> None:
    twin = msgspec.structs.replace(C, name="twin")
    built = core()
    built.handle(desired(4, [A, B, C, twin], 10))
    assert look(built).status("twin") == "loaded"


def test_of_two_versions_the_one_of_the_registry_is_shown_and_the_old_one_until_then() -> None:
    built = Residency(on(10))
    built.handle(desired(0, [C], 10))
    built.handle(LeaseRequested(0, 1, C))
    built.handle(ready(1, "c#1", 1, 2))
    new = changed(C)
    built.handle(desired(2, [new], 10))
    assert look(built).status("c") == "loaded"  # the old version finishes its request
    built.handle(LeaseRequested(3, 2, new))
    assert look(built).status("c") == "loading"
    built.handle(ready(4, "c#2", 1, 2))
    served_by = look(built).serving("c")
    assert served_by is not None and served_by.id == "c#2"


@pytest.mark.parametrize(
    ("each", "text"),
    [
        (A, "loading a 40%, about 5 s"),
        (B, "waiting for b: next, about 11 s"),
        (C, "waiting for c: next, about 0 s"),
    ],
)
def test_a_wait_is_described_in_words(each: LocalModel, text: str) -> None:
    assert describe_wait(core().tables, each, 5.0, {"a#2": 0.4}) == text


def test_looking_changes_nothing() -> None:
    built = core()
    before = repr(built.tables)
    look(built)
    assert repr(built.tables) == before
