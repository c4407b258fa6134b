from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from router.sizing.devices import Device, detect
from router.sizing.meter import Meter
from router.sizing.nvml import Driver

GPUS = (Device("gpu0", "cuda", 100, 90, "GPU-a"), Device("gpu1", "cuda", 100, 90, "GPU-b"))


@dataclass
class Machine:
    total: int = 1000
    available: int = 600


@dataclass
class FakeDriver(Driver):
    """Bytes by board: free, and held by process."""

    frees: dict[str, int] = field(default_factory=dict)
    holders: dict[str, dict[int, int]] = field(default_factory=dict)

    def free(self, uuid: str) -> int | None:
        return self.frees.get(uuid)

    def used(self, uuid: str) -> dict[int, int]:
        return self.holders.get(uuid, {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for pid, pages in ((7, 4), (8, 2)):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/status").write_text(f"Name:\tx\nRssAnon:\t{pages} kB\nRssFile:\t9 kB\n")
    return tmp_path


def meter(root: Path, frees: dict[str, int], holders: dict[str, dict[int, int]]) -> Meter:
    return Meter(GPUS, FakeDriver(frees, holders), Machine, root)


def test_a_process_is_asked_of_every_device(root: Path) -> None:
    busy = meter(root, {}, {"GPU-a": {7: 30}, "GPU-b": {8: 5}})
    assert busy.used_by(7) == {"gpu0": 30, "host": 4096}
    assert busy.used_by(8) == {"gpu1": 5, "host": 2048}


def test_a_process_that_is_gone_holds_nothing_that_is_known(root: Path) -> None:
    assert meter(root, {}, {}).used_by(99) == {}


def test_free_bytes_are_told_of_known_devices_only(root: Path) -> None:
    assert meter(root, {"GPU-a": 40}, {}).free("gpu0") == 40
    assert meter(root, {}, {}).free("gpu0") is None
    assert meter(root, {}, {}).free("gpu7") is None
    assert meter(root, {}, {}).free("host") == 600


def test_room_beside_strangers_is_what_is_free_and_what_is_ours(root: Path) -> None:
    shared = meter(root, {"GPU-a": 40, "GPU-b": 90}, {"GPU-a": {7: 30, 1: 30}, "GPU-b": {8: 10}})
    assert shared.beside_strangers([7, 8], {}) == {"gpu0": 70, "gpu1": 100, "host": 600 + 4096 + 2048}


@pytest.mark.parametrize("held", [30, 40, 55], ids=["not yet grown to it", "as booked", "grown beyond"])
def test_what_others_may_still_take_is_what_is_free_less_what_is_booked_and_not_yet_held(
    root: Path, held: int
) -> None:
    booked, free = 40, 20
    shared = meter(root, {"GPU-a": free}, {"GPU-a": {7: held}})
    room = shared.beside_strangers([7], {7: {"gpu0": booked}})["gpu0"]
    assert room - booked == free - max(booked - held, 0)


def test_the_hosts_memory_is_counted_likewise(root: Path) -> None:
    booked = {7: {"host": 9000}, 8: {"host": 100}}
    assert meter(root, {}, {}).beside_strangers([7, 8], booked) == {"host": 600 + 4096 + 100}


def test_a_driver_that_hides_our_processes_makes_no_strangers_of_them(root: Path) -> None:
    hidden = meter(root, {"GPU-a": 40}, {"GPU-a": {1: 60}})
    assert hidden.beside_strangers([7], {}) == {"host": 600 + 4096}
    assert hidden.beside_strangers([], {})["gpu0"] == 40


def test_this_process_holds_memory_of_this_machine() -> None:
    here = Meter(detect())
    assert here.used_by(os.getpid())["host"] > 2**20
    assert (here.free("host") or 0) > 0
