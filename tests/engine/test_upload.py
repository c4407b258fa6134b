from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from router.engine.batch import EngineError
from router.engine.upload import Upload, read
from tests.engine.host_lanes import Device


@pytest.fixture
def content() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, 100_003, np.uint8)


@pytest.fixture
def descriptor(tmp_path: Path, content: np.ndarray) -> Iterator[int]:
    (tmp_path / "weights").write_bytes(content.tobytes())
    opened = os.open(tmp_path / "weights", os.O_RDONLY)
    yield opened
    os.close(opened)


def test_every_piece_lands_at_its_place(descriptor: int, content: np.ndarray):
    target = np.zeros_like(content)
    upload = Upload(Device().opener(), lanes=3, piece=1000)
    for start, size in ((0, 50_001), (50_001, 2), (50_003, 50_000)):
        upload.add(descriptor, start, target.ctypes.data + start, size)
    upload.finish(lambda fraction: None)
    assert np.array_equal(target, content)


def test_nothing_to_do_starts_no_thread():
    device = Device()
    upload = Upload(device.opener())
    upload.finish(lambda fraction: None)
    upload.abandon()
    assert not device.lanes
    assert not upload.used


def test_progress_ends_at_one_and_every_lane_is_closed(descriptor: int, content: np.ndarray):
    device, told = Device(), []
    target = np.zeros_like(content)
    upload = Upload(device.opener(), lanes=2, piece=1000)
    upload.add(descriptor, 0, target.ctypes.data, len(content))
    upload.finish(told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert all(lane.closed for lane in device.lanes)


def test_a_device_that_refuses_is_an_error_and_no_silent_garbage(descriptor: int, content: np.ndarray):
    device = Device(broken=True)
    target = np.zeros_like(content)
    upload = Upload(device.opener(), lanes=2, piece=1000)
    upload.add(descriptor, 0, target.ctypes.data, len(content))
    with pytest.raises(EngineError, match="the device is gone"):
        upload.finish(lambda fraction: None)
    assert all(lane.closed for lane in device.lanes)


@pytest.mark.parametrize("room", [0, 2])
def test_lanes_that_cannot_be_opened_are_told_before_anything_is_taken(
    descriptor: int, content: np.ndarray, room: int
):
    device = Device(room=room)
    upload = Upload(device.opener(), lanes=3, piece=1000)
    with pytest.raises(EngineError, match="no memory can be locked"):
        upload.add(descriptor, 0, np.zeros_like(content).ctypes.data, len(content))
    assert not upload.used
    assert all(lane.closed for lane in device.lanes)


def test_threads_that_cannot_be_started_are_told_before_anything_is_taken(
    descriptor: int, content: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    started, start = [], threading.Thread.start

    def second_fails(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    device = Device()
    upload = Upload(device.opener(), lanes=3, piece=1000)
    with pytest.raises(EngineError, match="can't start new thread"):
        upload.add(descriptor, 0, np.zeros_like(content).ctypes.data, len(content))
    assert not upload.used
    assert not started[0].is_alive()
    assert all(lane.closed for lane in device.lanes)


def test_a_file_that_was_cut_meanwhile_is_an_error(descriptor: int, content: np.ndarray):
    target = np.zeros(len(content) + 5000, np.uint8)
    upload = Upload(Device().opener(), lanes=2, piece=1000)
    upload.add(descriptor, 0, target.ctypes.data, len(target))
    with pytest.raises(EngineError, match="was cut while it was loaded"):
        upload.finish(lambda fraction: None)


def test_what_is_abandoned_ends_at_once_and_twice_does_no_harm(descriptor: int, content: np.ndarray):
    target = np.zeros_like(content)
    upload = Upload(Device().opener(), lanes=2, piece=10)
    upload.add(descriptor, 0, target.ctypes.data, len(content))
    upload.abandon()
    arrived = target.copy()
    upload.abandon()
    assert np.array_equal(arrived, target)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path):
    written = os.open(tmp_path / "write-only", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(EngineError, match="could not be read"):
            read(written, memoryview(bytearray(10)), 0)
    finally:
        os.close(written)
