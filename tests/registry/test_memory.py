from __future__ import annotations

import pytest

from router.registry import schema
from router.registry.memory import choose, show
from router.sizing.devices import Device

HOST = Device("host", "cpu", 1000, 900)
GPU0 = Device("gpu0", "cuda", 2000, 1900)
GPU1 = Device("gpu1", "cuda", 4000, 3900)
LINKED = (Device("gpu0", "cuda", 2000, 1900, linked=True), Device("gpu1", "cuda", 2000, 1900, linked=True))


def declared(**budgets: int | str) -> dict[str, schema.Device]:
    """A number is so many bytes, written as such."""
    texts = {name: f"{budget}B" if isinstance(budget, int) else budget for name, budget in budgets.items()}
    return {name: schema.Device.model_validate({"budget": budget}) for name, budget in texts.items()}


def test_undeclared_every_gpu_gives_four_fifths_and_the_host_half() -> None:
    assert choose([HOST, GPU0, GPU1], None).budgets == {"gpu0": 1600, "gpu1": 3200, "host": 500}
    assert choose([GPU0], None).budgets == {"gpu0": 1600}
    assert choose([HOST], None).budgets == {"host": 500}


def test_a_share_is_of_what_the_device_has() -> None:
    assert choose([GPU0, GPU1], declared(gpu1="50%")).budgets == {"gpu1": 2000}


def test_several_devices_can_be_declared_and_gpus_come_first_in_their_order() -> None:
    chosen = choose([GPU0, GPU1, HOST], declared(host=300, gpu1="50%", gpu0=100))
    assert list(chosen.budgets.items()) == [("gpu0", 100), ("gpu1", 2000), ("host", 300)]
    assert chosen.has_gpu


def test_beside_a_declared_gpu_the_host_has_its_half() -> None:
    assert choose([GPU0, GPU1, HOST], declared(gpu0=100)).budgets == {"gpu0": 100, "host": 500}


def test_a_declared_host_alone_keeps_models_off_the_gpu() -> None:
    chosen = choose([GPU0, HOST], declared(host=300))
    assert (chosen.budgets, chosen.has_gpu) == ({"host": 300}, False)


def test_auto_is_the_first_gpu_if_there_is_one_else_the_host() -> None:
    assert choose([GPU0, GPU1], declared(auto="50%")).budgets == {"gpu0": 1000}
    assert choose([HOST], declared(auto=300)).budgets == {"host": 300}


def test_auto_beside_the_host_is_nothing_without_a_gpu() -> None:
    both = declared(auto=700, host=300)
    assert choose([HOST], both).budgets == {"host": 300}
    assert choose([GPU0, HOST], both).budgets == {"gpu0": 700, "host": 300}


def test_auto_cannot_be_a_gpu_that_is_declared_as_well() -> None:
    with pytest.raises(ValueError, match="auto is gpu0 here, which has a budget of its own"):
        choose([GPU0, HOST], declared(auto=700, gpu0=300))


@pytest.mark.parametrize("name", ["gpu", "cuda0", "gpu00", "GPU0", "disk", "gpu-1"])
def test_a_name_that_is_no_device_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected gpu0, gpu1, ..., host or auto, got {name}"):
        choose([GPU0], declared(**{name: 100}))


def test_gpus_are_linked_when_all_that_are_used_are() -> None:
    assert choose(LINKED, None).linked
    assert not choose([*LINKED, Device("gpu2", "cuda", 9, 9)], None).linked
    assert choose([*LINKED, Device("gpu2", "cuda", 9, 9)], declared(gpu0=1, gpu1=1)).linked


def test_bytes_of_a_device_that_was_not_found_are_taken_on_trust() -> None:
    memory = choose([HOST], declared(gpu0=5000))
    assert memory.budgets == {"gpu0": 5000, "host": 500}
    (warning,) = memory.warnings
    assert "gpu0 was not found here (only: host)" in warning


def test_host_memory_is_there_without_being_detected() -> None:
    memory = choose([GPU0], declared(host=5000))
    assert (memory.budgets, memory.warnings) == ({"host": 5000}, ())


def test_a_share_of_a_device_that_was_not_found_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is no gpu7 here, only: gpu0, gpu1"):
        choose([GPU0, GPU1], declared(gpu7="80%"))


def test_a_budget_over_what_the_device_has_is_a_warning() -> None:
    memory = choose([HOST], declared(host=5000))
    assert memory.budgets == {"host": 5000}
    assert "more than host has" in memory.warnings[0]


def test_without_any_device_a_declared_one_is_asked_for() -> None:
    with pytest.raises(ValueError, match="declare one"):
        choose([], None)


def test_bytes_for_people() -> None:
    assert show(9 * 2**30) == "9.0 GiB"
    assert show(750_000_000) == "715 MiB"


def test_a_limit_of_temperature_goes_with_its_gpu_and_auto_on_the_host_has_none() -> None:
    warm = schema.Device.model_validate({"budget": "300B", "max_temperature": 84})
    assert choose([GPU0, HOST], {"auto": warm}).max_temperatures == {"gpu0": 84}
    assert choose([HOST], {"auto": warm}).max_temperatures == {}
    assert choose([GPU0, HOST], declared(gpu0=300)).max_temperatures == {}
    assert choose([GPU0, HOST], None).max_temperatures == {}


@pytest.mark.parametrize("degrees", [49, 111, -1, 84.5, "84", True])
def test_a_limit_that_makes_no_sense_is_refused(degrees: object) -> None:
    with pytest.raises(ValueError, match="max_temperature"):
        schema.Device.model_validate({"budget": "300B", "max_temperature": degrees})


def test_the_host_has_no_limit_since_it_does_not_say_how_hot_it_is() -> None:
    warm = schema.Device.model_validate({"budget": "300B", "max_temperature": 84})
    with pytest.raises(ValueError, match="the host takes no max_temperature"):
        choose([GPU0, HOST], {"host": warm})
