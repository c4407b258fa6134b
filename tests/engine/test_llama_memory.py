from __future__ import annotations

import pytest

from router.domain.models import EngineOptions, Footprint
from router.engine import llama_memory
from router.engine.batch import EngineError
from router.engine.llama_log import llama
from router.engine.llama_memory import Buffers, breakdown, copies_mapped, footprints, touched
from router.engine.llama_params import context_params, traits

COPIED = (
    Buffers("CPU_Mapped", "host", 30, 0, 0),
    Buffers("CPU_REPACK", "host", 60, 0, 0),
    Buffers("CPU", "host", 0, 40, 9),
)


@pytest.fixture
def context(tiny_model):
    options = EngineOptions(context=256, slots=2)
    context = llama.llama_init_from_model(tiny_model, context_params(options, traits(tiny_model)))
    yield context
    llama.llama_free(context)


def test_the_breakdown_names_every_buffer_type(context):
    buffers = breakdown(context)
    assert all(buffer.name for buffer in buffers)
    assert {buffer.device for buffer in buffers} == {"host"}
    assert sum(b.context for b in buffers) == 256 * 2 * 2 * 16 * 2 * 2


def test_a_footprint_is_told_for_each_device_by_itself():
    buffers = (
        Buffers("CUDA0", "gpu0", 100, 20, 3),
        Buffers("CUDA1", "gpu1", 90, 10, 4),
        Buffers("CPU_Mapped", "host", 7, 0, 0),
        Buffers("CUDA_Host", "host", 0, 0, 1),
    )
    assert footprints(buffers, outputs=5, overhead=50) == {
        "gpu0": Footprint(100, 20, 3),
        "gpu1": Footprint(90, 10, 4),
        "host": Footprint(7, 0, 6, 50),
    }


def test_a_device_without_a_byte_is_not_told_of():
    assert footprints((Buffers("CUDA0", "gpu0", 1, 0, 0), Buffers("CUDA1", "gpu1", 0, 0, 0))) == {
        "gpu0": Footprint(1)
    }


def test_weights_copied_out_of_the_mapped_file_leave_it_idle():
    assert copies_mapped(COPIED)
    assert not copies_mapped((COPIED[0], COPIED[2]))
    assert not copies_mapped((COPIED[0], Buffers("CUDA0", "gpu0", 60, 0, 0)))


def test_a_load_has_written_copies_and_cache_but_neither_mapping_nor_compute_nor_pinned_memory():
    assert touched((*COPIED, Buffers("CUDA_Host", "host", 0, 0, 8))) == 60 + 40


def test_a_mapped_model_counts_the_tensors_that_are_read_from_it(context):
    model = llama.llama_get_model(context)
    (mapped,) = [b for b in breakdown(context) if b.name == "CPU_Mapped"]
    assert mapped.model == pytest.approx(llama.llama_model_size(model), rel=0.01)
    whole = Buffers("CPU_Mapped", "host", 10 * mapped.model, 0, 0)
    assert llama_memory._still_read(model, whole) == mapped.model


def test_a_build_that_hides_its_tensors_counts_the_whole_mapping(context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_memory, "_TENSORS", "_Z26no_such_function")
    whole = Buffers("CPU_Mapped", "host", 12345, 0, 0)
    assert llama_memory._still_read(llama.llama_get_model(context), whole) == 12345


def test_a_build_that_does_not_tell_is_an_engine_error(context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_memory, "_SYMBOL", "_Z26no_such_function")
    llama_memory._breakdown_function.cache_clear()
    try:
        with pytest.raises(EngineError, match="does not tell"):
            breakdown(context)
    finally:
        llama_memory._breakdown_function.cache_clear()


def test_a_build_with_another_layout_is_an_engine_error(context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_memory, "_walk", lambda _: iter(()))
    with pytest.raises(EngineError, match="another layout"):
        breakdown(context)
