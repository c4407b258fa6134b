from __future__ import annotations

import dataclasses
import typing

import pytest

from router.residency import events

ALL = [*typing.get_args(events.Event), *typing.get_args(events.Action)]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_events_and_actions_are_frozen_values(kind: type) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)


@pytest.mark.parametrize("kind", typing.get_args(events.Event), ids=lambda kind: kind.__name__)
def test_every_event_carries_its_time_first(kind: type) -> None:
    assert dataclasses.fields(kind)[0].name == "at"


def test_every_event_and_action_of_the_module_is_in_its_union() -> None:
    defined = {v for v in vars(events).values() if isinstance(v, type) and v.__module__ == events.__name__}
    assert defined == set(ALL)
