"""Values of the registry: what makes two of them one process, and what does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from router.domain.models import (
    EngineOptions,
    FileIdentity,
    Footprint,
    ModelCard,
    Placement,
    SamplingDefaults,
)
from tests.local import local_model

MODEL = local_model(name="m", path="/m.gguf")


def test_a_footprint_is_the_sum_of_its_parts() -> None:
    assert Footprint(weights=1, kv_cache=20, compute=300, overhead=4000).total == 4321
    assert Footprint().total == 0


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/other.gguf"},
        {"file": FileIdentity(1, 2, 3, 4)},
        {"engine": EngineOptions(context=1)},
        {"engine": EngineOptions(kv_type="q8_0")},
        {"sha256": "0" * 64},
    ],
    ids=str,
)
def test_what_a_process_was_started_with_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(MODEL, **change).fingerprint != MODEL.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"aliases": ("x",)},
        {"pinned": True},
        {"preload": True},
        {"ttl": None},
        {"priority": 5},
        {"params": SamplingDefaults(temperature=0)},
        {"placements": (Placement(EngineOptions(gpu_layers=0), {"host": Footprint(5)}),)},
        {"card": ModelCard(name="x")},
        {"problem": "no such file"},
    ],
    ids=str,
)
def test_what_can_be_adopted_in_place_does_not(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(MODEL, **change).fingerprint == MODEL.fingerprint


def test_a_fingerprint_is_the_same_in_every_run() -> None:
    assert MODEL.fingerprint == local_model(name="m", path="/m.gguf").fingerprint
    assert len(MODEL.fingerprint) == 16


def test_values_cannot_be_changed() -> None:
    for value in (MODEL, MODEL.engine, MODEL.footprint):
        with pytest.raises(AttributeError):
            setattr(value, value.__struct_fields__[0], None)


def test_a_placement_tells_its_bytes_by_device_and_a_model_adds_them_up_for_people() -> None:
    split = Placement(
        EngineOptions(gpu_layers=10), {"gpu0": Footprint(70, 20, 3, 500), "host": Footprint(30, 10, 2)}
    )
    assert split.bytes == {"gpu0": 593, "host": 42}
    model = msgspec.structs.replace(MODEL, placements=(split, *MODEL.placements))
    assert model.footprint == Footprint(100, 30, 5, 500)
