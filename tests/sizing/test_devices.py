from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from router.sizing import devices
from router.sizing.devices import Board, Device, detect, gpus, host

GiB = 2**30
A, B = Board("GPU-aaaa", 80 * GiB, 70 * GiB), Board("GPU-bbbb", 24 * GiB, 20 * GiB)


@dataclass
class Machine:
    total: int = 64 * GiB
    available: int = 32 * GiB


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# GPUs -----------------------------------------------------------------------------------------------------


def test_boards_of_the_driver_are_the_devices_and_the_host_is_behind_them(tmp_path: Path) -> None:
    assert detect(lambda: (A, B), Machine, {}, tmp_path) == (
        Device("gpu0", "cuda", 80 * GiB, 70 * GiB, "GPU-aaaa"),
        Device("gpu1", "cuda", 24 * GiB, 20 * GiB, "GPU-bbbb"),
        Device("host", "cpu", 64 * GiB, 32 * GiB),
    )


def test_without_a_board_the_host_is_the_device(tmp_path: Path) -> None:
    assert detect(lambda: (), Machine, {}, tmp_path) == (Device("host", "cpu", 64 * GiB, 32 * GiB),)


@pytest.mark.parametrize(
    ("variable", "boards"),
    [
        ("1", [B]),
        ("1,0", [B, A]),
        ("GPU-b", [B]),
        ("0, GPU-bbbb", [A, B]),
        ("", []),
        ("-1", []),
        ("0,7,1", [A]),
        ("MIG-x", []),
    ],
)
def test_only_the_boards_that_cuda_will_see_count(variable: str, boards: list[Board]) -> None:
    found = gpus((A, B), {"CUDA_VISIBLE_DEVICES": variable})
    assert [device.total for device in found] == [board.total for board in boards]
    assert [device.name for device in found] == [f"gpu{number}" for number in range(len(boards))]


def test_hidden_boards_leave_the_host(tmp_path: Path) -> None:
    (found,) = detect(lambda: (A,), Machine, {"CUDA_VISIBLE_DEVICES": ""}, tmp_path)
    assert found.name == "host"


def test_this_machine_has_a_device() -> None:
    for device in detect():
        assert 0 < device.free <= device.total


# The host -------------------------------------------------------------------------------------------------


def test_a_container_limit_of_version_2_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": str(8 * GiB),
            "sys/fs/cgroup/a/memory.current": str(3 * GiB),
            "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GiB}\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
        },
    )
    assert host(Machine(), root) == Device("host", "cpu", 8 * GiB, 6 * GiB)


def test_inside_a_container_the_limit_stands_at_the_root(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../outside\n", "sys/fs/cgroup/memory.max": str(4 * GiB)}
    assert host(Machine(), write(tmp_path, files)).total == 4 * GiB


def test_a_container_limit_of_version_1_counts(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/x\n0::/\n",
            "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": str(2 * GiB),
            "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": str(GiB),
            "sys/fs/cgroup/memory/docker/x/memory.stat": f"inactive_file 7\ntotal_inactive_file {GiB // 2}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert host(Machine(), root) == Device("host", "cpu", 2 * GiB, 3 * GiB // 2)


def test_a_full_container_has_nothing_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "100",
        "sys/fs/cgroup/memory.current": "120",
    }
    assert host(Machine(), write(tmp_path, files)) == Device("host", "cpu", 100, 0)


@pytest.mark.parametrize("groups", ["", "nonsense", "0::", "::::::", "4:memory:/gone\n"])
def test_limits_that_cannot_be_read_are_no_limits(tmp_path: Path, groups: str) -> None:
    root = write(tmp_path, {"proc/self/cgroup": groups, "sys/fs/cgroup/memory.max": "a lot"})
    assert host(Machine(), root) == Device("host", "cpu", 64 * GiB, 32 * GiB)


def test_nothing_is_loaded_before_anybody_looks() -> None:
    assert not hasattr(devices, "pynvml")
