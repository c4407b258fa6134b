from __future__ import annotations

import pytest

from router.domain.models import EngineOptions
from router.engine.batch import EngineError
from router.engine.llama_log import llama
from router.engine.llama_params import Traits, context_params, model_params

CHAT = Traits(vocabulary=49152, pools=False, causal=True)
POOLED = Traits(vocabulary=30522, pools=True, causal=False)


def test_the_context_is_that_of_all_slots_and_every_slot_has_its_own() -> None:
    params = context_params(EngineOptions(context=512, slots=3), CHAT)
    assert (params.n_ctx, params.n_seq_max) == (1536, 3)
    assert params.kv_unified is False


def test_the_cache_type_is_that_of_keys_and_values() -> None:
    params = context_params(EngineOptions(kv_type="q8_0"), CHAT)
    assert params.type_k == params.type_v == llama.GGML_TYPE_Q8_0


def test_a_quantised_cache_without_flash_attention_is_refused() -> None:
    with pytest.raises(EngineError, match="flash attention"):
        context_params(EngineOptions(kv_type="q4_0", flash_attention="off"), CHAT)


def test_layers_go_where_the_options_say() -> None:
    assert model_params(EngineOptions(gpu_layers=7)).n_gpu_layers == 7


def test_an_embedding_step_is_narrow_for_a_chat_model_and_whole_for_a_pooled_one() -> None:
    options = EngineOptions(context=512, ubatch=128)
    assert CHAT.embedding_width(options) == 42  # 8 MiB of logits of 49,152 floats a row
    assert POOLED.embedding_width(options) == 512
    assert POOLED.whole
    assert not CHAT.whole
