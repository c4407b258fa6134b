from __future__ import annotations

from collections.abc import Mapping

import pytest

from router.domain.models import EngineOptions
from router.sizing.gguf import Value
from router.sizing.kv_cache import Attention, Recurrent, cells, layer_bytes, layers
from tests.sizing.conftest import MakeHeader

KiB, MiB = 2**10, 2**20
LLAMA_3_8B: dict[str, Value] = {
    "block_count": 32,
    "embedding_length": 4096,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}
HEADS: dict[str, Value] = {"embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}


def windows(make_header: MakeHeader, architecture: str, count: int, **fields: Value) -> list[int]:
    """The window of each layer."""
    stated = {f"attention.{key}": value for key, value in fields.items()}
    header = make_header(architecture, HEADS | stated | {"block_count": count})
    return [part.window for layer in layers(header) for part in layer if isinstance(part, Attention)]


def total(
    make_header: MakeHeader, architecture: str, fields: Mapping[str, Value], options: EngineOptions
) -> int:
    return sum(layer_bytes(layer, options) for layer in layers(make_header(architecture, fields)))


def test_llama_3_8b_takes_128_kib_a_token(make_header: MakeHeader) -> None:
    one = EngineOptions(context=256, slots=1)
    assert total(make_header, "llama", LLAMA_3_8B, one) == 256 * 128 * KiB


def test_llama_2_13b_takes_800_kib_a_token(make_header: MakeHeader) -> None:
    fields: dict[str, Value] = {"block_count": 40, "embedding_length": 5120, "attention.head_count": 40}
    assert total(make_header, "llama", fields, EngineOptions(context=256, slots=1)) == 256 * 800 * KiB


@pytest.mark.parametrize(("kv_type", "share"), [("f16", 64), ("q8_0", 34), ("q4_0", 18)])
def test_a_quantized_cache_takes_its_blocks(make_header: MakeHeader, kv_type: str, share: int) -> None:
    options = EngineOptions(context=1024, slots=2, kv_type=kv_type)  # type: ignore[arg-type]
    assert total(make_header, "llama", LLAMA_3_8B, options) == 2048 * 128 * KiB * share // 64


def test_the_context_of_every_slot_is_padded(make_header: MakeHeader) -> None:
    assert cells(EngineOptions(context=100, slots=3)) == 3 * 256
    assert cells(EngineOptions(context=257, slots=1)) == 512


def test_a_sliding_layer_keeps_its_window_and_a_micro_batch(make_header: MakeHeader) -> None:
    options = EngineOptions(context=8192, slots=4, ubatch=512)
    assert cells(options, 1000) == 4 * 1536
    assert cells(options, 100_000) == cells(options) == 4 * 8192


def test_the_window_counts_only_where_the_engine_uses_it(make_header: MakeHeader) -> None:
    fields = HEADS | {"block_count": 1, "attention.sliding_window": 1000}
    (layer,) = layers(make_header("gemma3", fields))
    options = EngineOptions(context=8192, slots=4, ubatch=512)
    assert layer_bytes(layer, options) == 4 * 8192 * 2 * 32 * 2
    assert layer_bytes(layer, options, windowed=True) == 4 * 1536 * 2 * 32 * 2


def test_heads_may_differ_by_layer(make_header: MakeHeader) -> None:
    header = make_header("deci", HEADS | {"block_count": 3, "attention.head_count_kv": (1, 0, 4)})
    assert list(layers(header)) == [
        (Attention(16, 16),),
        (Recurrent(0),),
        (Attention(64, 64),),
    ]
    assert layer_bytes(layers(header)[1], EngineOptions()) == 0


def test_key_and_value_lengths_override_the_width(make_header: MakeHeader) -> None:
    fields = HEADS | {"block_count": 1, "attention.key_length": 128, "attention.value_length": 96}
    assert layers(make_header("qwen3", fields)) == ((Attention(256, 192),),)


def test_latent_attention_keeps_keys_only(make_header: MakeHeader) -> None:
    lengths = {"key_length": 576, "value_length": 512, "key_length_mla": 192, "value_length_mla": 128}
    fields: dict[str, Value] = {f"attention.{key}": value for key, value in lengths.items()}
    header = make_header("deepseek2", HEADS | fields | {"block_count": 1, "attention.head_count_kv": 1})
    assert layers(header) == ((Attention(576, 0),),)


def test_sliding_layers_follow_the_pattern_of_their_architecture(make_header: MakeHeader) -> None:
    assert windows(make_header, "gemma3", 7, sliding_window=512) == [512] * 5 + [0, 512]
    assert windows(make_header, "gpt-oss", 4, sliding_window=128) == [128, 0, 128, 0]
    assert windows(make_header, "gemma2", 2) == [4096, 0]
    assert windows(make_header, "smallthinker", 5, sliding_window=99) == [0, 4096, 4096, 4096, 0]
    assert windows(make_header, "llama4", 4) == [8192, 8192, 8192, 0]
    assert windows(make_header, "exaone4", 64, sliding_window=4096).count(4096) == 48


def test_a_pattern_in_the_file_overrides_the_architecture(make_header: MakeHeader) -> None:
    pattern = (True, False, False)
    assert windows(make_header, "gemma3", 3, sliding_window=512, sliding_window_pattern=pattern) == [
        512,
        0,
        0,
    ]
    assert windows(make_header, "gemma3", 3, sliding_window=512, sliding_window_pattern=3) == [512, 512, 0]


def test_what_is_not_understood_is_dense(make_header: MakeHeader) -> None:
    assert windows(make_header, "invented", 3, sliding_window=512) == [0, 0, 0]
    assert windows(make_header, "phi3", 2, sliding_window=512) == [0, 0]
    assert windows(make_header, "gemma3", 2) == [0, 0]
    assert windows(make_header, "llama4", 2, sliding_window=0) == [0, 0]
    assert windows(make_header, "exaone4", 30, sliding_window=4096) == [0] * 30
    assert windows(make_header, "gemma4", 2, sliding_window=512) == [0, 0]
    assert windows(make_header, "gemma3", 2, sliding_window=512, sliding_window_pattern=(True,)) == [512] * 2


def test_sliding_layers_may_have_heads_of_their_own_size(make_header: MakeHeader) -> None:
    lengths = {"key_length": 64, "value_length": 64, "key_length_swa": 32, "value_length_swa": 16}
    fields: dict[str, Value] = {f"attention.{key}": value for key, value in lengths.items()}
    fields |= {"attention.sliding_window": 512, "attention.sliding_window_pattern": (True, False)}
    header = make_header("gemma4", HEADS | fields | {"block_count": 2})
    assert layers(header) == ((Attention(64, 32, 512),), (Attention(128, 128),))


def test_layers_that_share_the_cache_of_others_keep_nothing(make_header: MakeHeader) -> None:
    shared = make_header("gemma4", HEADS | {"block_count": 5, "attention.shared_kv_layers": 2})
    assert [len(layer) for layer in layers(shared)] == [1, 1, 1, 0, 0]
    nano = make_header("gemma3n", HEADS | {"block_count": 30})
    assert sum(len(layer) for layer in layers(nano)) == 20


def test_layers_that_predict_further_tokens_keep_nothing(make_header: MakeHeader) -> None:
    header = make_header("glm4moe", HEADS | {"block_count": 4, "nextn_predict_layers": 1})
    assert [len(layer) for layer in layers(header)] == [1, 1, 1, 0]


@pytest.mark.parametrize("architecture", ["bert", "nomic-bert", "gemma-embedding", "dream"])
def test_models_that_see_the_whole_batch_keep_nothing(make_header: MakeHeader, architecture: str) -> None:
    assert layers(make_header(architecture, HEADS | {"block_count": 2})) == ((), ())


SSM: dict[str, Value] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.group_count": 1,
}


def test_a_recurrent_layer_keeps_a_state_by_slot(make_header: MakeHeader) -> None:
    header = make_header("mamba2", SSM | {"block_count": 2})
    assert layers(header) == ((Recurrent(3 * 160 + 2048),),) * 2
    assert layer_bytes(layers(header)[0], EngineOptions(context=256, slots=3)) == 3 * 4 * 2528
    assert layer_bytes(layers(header)[0], EngineOptions(context=9999, slots=3)) == 3 * 4 * 2528


def test_hybrid_models_mix_both(make_header: MakeHeader) -> None:
    by_heads = make_header("jamba", HEADS | SSM | {"block_count": 2, "attention.head_count_kv": (0, 2)})
    assert [type(layer[0]) for layer in layers(by_heads)] == [Recurrent, Attention]
    by_interval = make_header("qwen3next", HEADS | SSM | {"block_count": 4})
    assert [type(layer[0]) for layer in layers(by_interval)] == [Recurrent] * 3 + [Attention]
    side_by_side = make_header("falcon-h1", HEADS | SSM | {"block_count": 1})
    assert [type(part) for part in layers(side_by_side)[0]] == [Attention, Recurrent]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"embedding_length": 64, "wkv.head_size": 16}, 64 * (2 + 16)),
        ({"embedding_length": 64, "shortconv.l_cache": 3}, 64 * 2),
        ({"attention.head_count": 4, "kda.head_dim": 16, "ssm.conv_kernel": 4}, 3 * 3 * 64 + 16 * 16 * 4),
    ],
)
def test_every_kind_of_state_has_its_size(
    make_header: MakeHeader, fields: dict[str, Value], state: int
) -> None:
    header = make_header("rwkv7", fields | {"block_count": 1})
    assert layers(header) == ((Recurrent(state),),)
