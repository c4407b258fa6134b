from __future__ import annotations

from router.sizing.devices import Device
from router.sizing.nvml import Driver
from router.sizing.thermals import Heat, Thermals
from tests.sizing.test_devices import GiB

GPU = Device("gpu0", "cuda", 24 * GiB, 20 * GiB, uuid="GPU-a")
HOST = Device("host", "cpu", 16 * GiB, 8 * GiB)


class Card(Driver):
    def __init__(self, said: tuple[int, int] | None) -> None:
        super().__init__()
        self.said = said

    def heat(self, uuid: str) -> tuple[int, int] | None:
        assert uuid == "GPU-a"
        return self.said


def test_what_slows_a_device_is_told_by_name_and_idleness_is_no_trouble() -> None:
    idle, power_cap, set_clocks, thermal = 0x01, 0x04, 0x02, 0x20
    thermals = Thermals((HOST, GPU), Card((84, idle | power_cap | set_clocks | thermal)))
    assert thermals.readings() == {"gpu0": Heat(84, frozenset({"power_cap", "software_thermal"}))}
    assert Thermals((GPU,), Card((40, idle))).readings() == {"gpu0": Heat(40, frozenset())}


def test_a_device_that_does_not_say_and_the_host_are_left_out() -> None:
    assert Thermals((HOST, GPU), Card(None)).readings() == {}
    assert Thermals((HOST,)).readings() == {}
