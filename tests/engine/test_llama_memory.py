from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.models import EngineOptions, Footprint
from router.engine import llama_memory
from router.engine.batch import EngineError
from router.engine.llama_log import llama
from router.engine.llama_memory import Buffers, breakdown, footprints
from router.engine.llama_params import context_params, traits


@pytest.fixture
def context(tiny_model):
    options = EngineOptions(context=256, slots=2)
    context = llama.llama_init_from_model(tiny_model, context_params(options, traits(tiny_model)))
    yield context
    llama.llama_free(context)


def test_the_breakdown_names_every_buffer_type(context):
    buffers = breakdown(context)
    assert all(buffer.name for buffer in buffers)
    assert sum(b.context for b in buffers) == 256 * 2 * 2 * 16 * 2 * 2


def test_a_footprint_counts_the_device_only(monkeypatch: pytest.MonkeyPatch):
    buffers = (Buffers("CUDA0", True, 100, 20, 3), Buffers("CPU", False, 7, 0, 1))
    monkeypatch.setattr(llama_memory, "breakdown", lambda _: buffers)
    monkeypatch.setattr(llama, "llama_supports_gpu_offload", lambda: True)
    assert footprints(None) == {"gpu0": Footprint(100, 20, 3)}


def test_without_a_device_the_host_is_counted(monkeypatch: pytest.MonkeyPatch):
    buffers = (Buffers("CPU", False, 7, 5, 1), Buffers("CPU_REPACK", False, 10, 0, 0))
    monkeypatch.setattr(llama_memory, "breakdown", lambda _: buffers)
    monkeypatch.setattr(llama, "llama_supports_gpu_offload", lambda: False)
    assert footprints(None) == {"host": Footprint(17, 5, 1)}


def test_a_build_that_does_not_tell_is_an_engine_error(context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_memory, "_SYMBOL", "_Z26no_such_function")
    llama_memory._breakdown_function.cache_clear()
    try:
        with pytest.raises(EngineError, match="does not tell"):
            footprints(context)
    finally:
        llama_memory._breakdown_function.cache_clear()


def test_a_build_with_another_layout_is_an_engine_error(context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_memory, "_walk", lambda _: iter(()))
    with pytest.raises(EngineError, match="another layout"):
        breakdown(context)


def test_a_missing_library_is_an_engine_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(EngineError, match="not beside"):
        llama_memory._library("no-such-library")
