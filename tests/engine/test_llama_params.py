from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from router.domain.models import EngineOptions
from router.engine.batch import EngineError
from router.engine.llama_log import llama
from router.engine.llama_params import Traits, context_params, metadata, model_params, threads, traits
from tests.engine import tiny

CAUSAL = Traits(vocabulary=50_000, pools=False, causal=True)
POOLING = Traits(vocabulary=50_000, pools=True, causal=False)


def load(path: Path):
    return llama.llama_model_load_from_file(bytes(path), llama.llama_model_default_params())


def test_the_metadata_is_read_as_text(tiny_model):
    assert metadata(tiny_model, "general.architecture") == "llama"
    assert metadata(tiny_model, "llama.block_count") == "2"
    assert metadata(tiny_model, "no.such.key") is None


def test_traits_tell_who_generates_from_who_embeds(tiny_model, tiny_bert: Path):
    assert traits(tiny_model) == Traits(258, pools=False, causal=True)
    model = load(tiny_bert)
    found = traits(model)
    llama.llama_model_free(model)
    assert found == Traits(9, pools=True, causal=False)
    assert found.whole


def test_a_model_that_ranks_is_refused(folder: Path):
    model = load(tiny.bert(folder / "rank.gguf", pooling=gguf.PoolingType.RANK))
    with pytest.raises(EngineError, match="ranks"):
        traits(model)
    llama.llama_model_free(model)


def test_every_slot_gets_its_context():
    params = context_params(EngineOptions(context=4096, slots=4, ubatch=512), CAUSAL)
    assert (params.n_ctx, params.n_seq_max, params.kv_unified) == (16384, 4, False)
    assert (params.n_batch, params.n_ubatch) == (512, 512)


def test_outputs_are_bounded_by_slots_and_embedding_steps():
    options = EngineOptions(context=4096, slots=4)
    assert context_params(options, CAUSAL).n_outputs_max == CAUSAL.embedding_width(options) == 41
    huge = Traits(vocabulary=10_000_000, pools=False, causal=True)
    assert context_params(options, huge).n_outputs_max == 4
    assert huge.embedding_width(options) == 1


def test_a_batch_holds_a_token_of_every_slot():
    assert context_params(EngineOptions(slots=16, ubatch=4), CAUSAL).n_batch == 16


def test_a_pooling_model_reads_a_whole_input_at_once():
    params = context_params(EngineOptions(context=2048, slots=2, ubatch=64), POOLING)
    assert (params.n_batch, params.n_ubatch, params.embeddings) == (2048, 2048, True)


@pytest.mark.parametrize(("kv_type", "number"), [("f16", 1), ("q8_0", 8), ("q4_0", 2)])
def test_the_cache_has_the_type_that_was_asked_for(kv_type, number):
    params = context_params(EngineOptions(kv_type=kv_type), CAUSAL)
    assert (params.type_k, params.type_v) == (number, number)


def test_flash_attention_is_on_where_a_quantised_cache_needs_it():
    asked = {"auto": -1, "on": 1, "off": 0}
    for word, number in asked.items():
        assert context_params(EngineOptions(flash_attention=word), CAUSAL).flash_attn_type == number
    assert context_params(EngineOptions(kv_type="q8_0"), CAUSAL).flash_attn_type == 1
    with pytest.raises(EngineError, match="needs flash attention"):
        context_params(EngineOptions(kv_type="q8_0", flash_attention="off"), CAUSAL)


def test_gpu_layers_are_passed_on():
    assert model_params(EngineOptions(gpu_layers=7)).n_gpu_layers == 7


def _machine(root: Path, siblings: dict[int, str], cpu_max: str | None) -> Path:
    for cpu, text in siblings.items():
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    if cpu_max is not None:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/cpu.max").write_text(cpu_max + "\n")
    return root


@pytest.mark.parametrize(
    ("siblings", "cpu_max", "expected"),
    [
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, None, 2),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "max 100000", 4),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "150000 100000", 2),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "10000 100000", 1),
        ({0: "0", 1: "1", 2: "2", 3: "3"}, "nonsense", 4),
        ({}, None, 4),
    ],
)
def test_threads_are_physical_cores_within_the_quota(
    siblings, cpu_max, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert threads(_machine(tmp_path, siblings, cpu_max)) == expected


def test_threads_respect_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1})
    assert threads(_machine(tmp_path, {0: "0", 1: "1"}, None)) == 1
