from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest

from router.sizing.nvml import Board, Driver

GiB = 2**30
A, B = Board("GPU-aaaa", 80 * GiB, 70 * GiB, True), Board("GPU-bbbb", 24 * GiB, 20 * GiB)
RUNNING = [SimpleNamespace(pid=7, usedGpuMemory=5 * GiB), SimpleNamespace(pid=8, usedGpuMemory=None)]


class FakeError(Exception):
    pass


def library(boards: tuple[Board, ...], *fails_at: str) -> ModuleType:
    """A pynvml in which the functions `fails_at` fail."""

    def call(name: str, answer: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            if name in fails_at:
                raise FakeError
            return answer(*arguments)

        return run

    by_uuid = {board.uuid: board for board in boards}
    answers: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: len(boards),
        "nvmlDeviceGetHandleByIndex": lambda number: boards[number],
        "nvmlDeviceGetHandleByUUID": lambda uuid: by_uuid[uuid],
        "nvmlDeviceGetUUID": lambda board: board.uuid,
        "nvmlDeviceGetMemoryInfo": lambda board: SimpleNamespace(total=board.total, free=board.free),
        "nvmlDeviceGetTemperature": lambda board, sensor: 71,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda board: 0x24,
        "nvmlDeviceGetNvLinkState": lambda board, link: int(board.linked),
        "nvmlDeviceGetComputeRunningProcesses": lambda board: RUNNING if board == A else [],
    }
    module = ModuleType("pynvml")
    vars(module).update({name: call(name, answer) for name, answer in answers.items()}, NVMLError=FakeError)
    return module


def test_the_driver_is_asked_for_boards_free_bytes_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library((A, B)))
    driver = Driver()
    assert driver.boards() == (A, B)
    assert driver.free("GPU-bbbb") == 20 * GiB
    assert driver.used("GPU-aaaa") == {7: 5 * GiB}
    assert driver.used("GPU-bbbb") == {}


@pytest.mark.parametrize(
    "step", ["nvmlInit", "nvmlDeviceGetTemperature", "nvmlDeviceGetCurrentClocksThrottleReasons"]
)
def test_heat_is_told_in_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library((A,)))
    assert Driver().heat("GPU-aaaa") == (71, 0x24)
    monkeypatch.setitem(sys.modules, "pynvml", library((A,), step))
    assert Driver().heat("GPU-aaaa") is None


@pytest.mark.parametrize("step", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_fails_is_no_driver(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library((A,), step))
    assert Driver().boards() == ()
    assert Driver().free("GPU-aaaa") is None or step == "nvmlDeviceGetCount"


def test_a_driver_that_hides_processes_and_links_still_has_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = library((A,), "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetNvLinkState")
    monkeypatch.setitem(sys.modules, "pynvml", hidden)
    assert Driver().boards() == (Board(A.uuid, A.total, A.free),)
    assert Driver().used("GPU-aaaa") == {}


def test_without_the_binding_there_is_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (Driver().boards(), Driver().free("GPU-aaaa"), Driver().used("GPU-aaaa")) == ((), None, {})
