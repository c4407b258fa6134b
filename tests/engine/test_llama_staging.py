"""The hooks are tried on llama.cpp's own CPU buffers: the same tables of functions, no GPU."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from router.engine import llama_staging
from router.engine.batch import EngineError
from router.engine.llama_devices import function
from router.engine.llama_staging import Mapping, Staging, covering, mappings
from tests.engine.host_lanes import Device, HostLane

POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t
COUNT = 4096


class InitParams(ctypes.Structure):
    _fields_ = (("mem_size", SIZE), ("mem_buffer", POINTER), ("no_alloc", ctypes.c_bool))


@pytest.fixture
def buffer_type() -> int:
    return function("ggml_backend_cpu_buffer_type", POINTER)()


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """What a mapped file holds, and where it is mapped."""
    content = np.random.default_rng(2).random(COUNT, np.float32)
    (tmp_path / "model.gguf").write_bytes(bytes(4096) + content.tobytes())
    with (tmp_path / "model.gguf").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    view = np.frombuffer(mapped, np.uint8)
    yield content, view.ctypes.data + 4096
    del view
    mapped.close()


@contextlib.contextmanager
def tensor(buffer_type: int) -> Iterator[tuple[int, np.ndarray]]:
    """A tensor of COUNT floats in a new buffer of this type, and its memory."""
    buffer = function("ggml_backend_buft_alloc_buffer", POINTER, POINTER, SIZE)(buffer_type, COUNT * 4)
    context = function("ggml_init", POINTER, InitParams)(InitParams(1 << 16, None, True))
    made = function("ggml_new_tensor_1d", POINTER, POINTER, ctypes.c_int, ctypes.c_int64)(context, 0, COUNT)
    base = function("ggml_backend_buffer_get_base", POINTER, POINTER)(buffer)
    function("ggml_backend_tensor_alloc", ctypes.c_int, POINTER, POINTER, POINTER)(buffer, made, base)
    memory = np.frombuffer((ctypes.c_float * COUNT).from_address(base), np.float32)
    memory[:] = -1
    yield made, memory
    function("ggml_free", None, POINTER)(context)
    function("ggml_backend_buffer_free", None, POINTER)(buffer)


def set_tensor(made: int, address: int, offset: int = 0, size: int = COUNT * 4) -> None:
    function("ggml_backend_tensor_set", None, POINTER, POINTER, SIZE, SIZE)(made, address, offset, size)


def test_a_tensor_out_of_a_mapped_file_comes_through_the_upload(buffer_type: int, weights):
    content, address = weights
    device = Device()
    with contextlib.ExitStack() as undo:
        staging = Staging(lambda _, size: device.opener()(size), undo)
        staging.hook(buffer_type)
        with tensor(buffer_type) as (made, memory):
            set_tensor(made, address, 0, 4000)
            set_tensor(made, address + 4000, 4000, COUNT * 4 - 4000)
            staging.upload.finish(lambda fraction: None)
            assert device.lanes
            assert np.array_equal(memory, content)


def test_memory_that_is_no_file_goes_llama_cpps_own_way(buffer_type: int):
    content = np.random.default_rng(3).random(COUNT, np.float32)
    with contextlib.ExitStack() as undo:
        staging = Staging(lambda _, size: Device().opener()(size), undo)
        staging.hook(buffer_type)
        with tensor(buffer_type) as (made, memory):
            set_tensor(made, content.ctypes.data)
            assert np.array_equal(memory, content)
            assert not staging.upload.used


def test_where_no_lane_can_be_opened_weights_come_llama_cpps_own_way(buffer_type: int, weights):
    content, address = weights
    device, asked = Device(room=0), []

    def open_lane(target: int, size: int) -> HostLane:
        asked.append(target)
        return device.opener()(size)

    with contextlib.ExitStack() as undo:
        staging = Staging(open_lane, undo)
        staging.hook(buffer_type)
        with tensor(buffer_type) as (made, memory):
            set_tensor(made, address, 0, 4000)
            tried = len(asked)
            set_tensor(made, address + 4000, 4000, COUNT * 4 - 4000)
            staging.upload.finish(lambda fraction: None)
            assert np.array_equal(memory, content)
    assert len(asked) == tried > 0


def test_after_the_load_nothing_is_ours_any_more(buffer_type: int, weights):
    content, address = weights
    with contextlib.ExitStack() as buffers:
        with contextlib.ExitStack() as undo:
            staging = Staging(lambda _, size: Device().opener()(size), undo)
            staging.hook(buffer_type)
            made, memory = buffers.enter_context(tensor(buffer_type))
        later, later_memory = buffers.enter_context(tensor(buffer_type))
        for one in (made, later):
            set_tensor(one, address)
        assert np.array_equal(memory, content)
        assert np.array_equal(later_memory, content)
    assert not staging.upload.used


def test_a_load_that_fails_leaves_no_thread_and_no_hook(buffer_type: int, weights):
    _, address = weights
    device = Device()
    with pytest.raises(EngineError, match="no such tensor"), contextlib.ExitStack() as undo:
        staging = Staging(lambda _, size: device.opener()(size), undo)
        staging.hook(buffer_type)
        made, _ = undo.enter_context(tensor(buffer_type))
        set_tensor(made, address)
        raise EngineError("no such tensor")
    assert all(lane.closed for lane in device.lanes)


def test_without_a_cuda_device_a_load_is_a_plain_load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_staging, "_cuda_buffer_type", lambda: None)
    told: list[float] = []
    with llama_staging.staged(told.append) as report:
        report(0.5)
    assert told == [0.5]


def test_only_files_are_found_in_the_kernels_list():
    text = (
        "7f0000000000-7f0000002000 r--s 00001000 08:01 12 /models/a b.gguf\n"
        "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n"
        "7f0000003000-7f0000004000 rw-p 00000000 00:00 0 [stack]\n"
    )
    assert mappings(text) == [Mapping(0x7F0000000000, 0x7F0000002000, 0x1000, "/models/a b.gguf")]


@pytest.mark.parametrize(
    ("data", "count", "found"),
    [
        (99, 1, None),
        (100, 100, 0),
        (150, 51, None),
        (200, 1, None),
        (300, 50, 1),
        (349, 1, 1),
        (350, 1, None),
    ],
)
def test_bytes_belong_to_a_mapping_only_as_a_whole(data: int, count: int, found: int | None):
    known = [Mapping(100, 200, 0, "/a"), Mapping(300, 350, 0, "/b")]
    expected = None if found is None else known[found]
    assert covering(known, data, count) == expected
    assert covering([], data, count) is None
