from __future__ import annotations

import pytest

from router.registry import schema
from router.registry.memory import choose, show
from router.sizing.devices import Device

HOST = Device("host", "cpu", 1000, 900)
GPU0 = Device("gpu0", "cuda", 2000, 1900)
GPU1 = Device("gpu1", "cuda", 4000, 3900)


def declared(name: str, budget: int | str) -> dict[str, schema.Device]:
    return {name: schema.Device.model_validate({"budget": budget})}


def test_undeclared_the_first_gpu_gives_four_fifths_and_the_host_half() -> None:
    assert choose([HOST, GPU0, GPU1], None).device == GPU0
    assert choose([GPU0], None).budget == 1600
    assert choose([HOST], None).budget == 500


def test_a_share_is_of_what_the_device_has() -> None:
    assert choose([GPU0, GPU1], declared("gpu1", "50%")).budget == 2000


def test_auto_is_whatever_there_is() -> None:
    assert choose([GPU0], declared("auto", "50%")).device == GPU0
    assert choose([HOST], declared("auto", 300)).device == HOST


def test_bytes_of_a_device_that_was_not_found_are_taken_on_trust() -> None:
    memory = choose([HOST], declared("gpu0", 5000))
    assert (memory.device, memory.budget) == (Device("gpu0", "cuda", 5000, 5000), 5000)
    assert memory.warning is not None
    assert "gpu0 was not found here (only: host)" in memory.warning


def test_host_memory_beside_a_gpu_is_there_without_being_detected() -> None:
    memory = choose([GPU0], declared("host", 5000))
    assert (memory.device, memory.warning) == (Device("host", "cpu", 5000, 5000), None)


def test_a_share_of_a_device_that_was_not_found_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is no gpu7 here, only: gpu0, gpu1"):
        choose([GPU0, GPU1], declared("gpu7", "80%"))


def test_a_budget_over_what_the_device_has_is_a_warning() -> None:
    memory = choose([HOST], declared("host", 5000))
    assert memory.budget == 5000
    assert memory.warning is not None
    assert "more than host has" in memory.warning


def test_without_any_device_a_declared_one_is_asked_for() -> None:
    with pytest.raises(ValueError, match="declare one"):
        choose([], None)


def test_bytes_for_people() -> None:
    assert show(9 * 2**30) == "9.0 GiB"
    assert show(750_000_000) == "715 MiB"
