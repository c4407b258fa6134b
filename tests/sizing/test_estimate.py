from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.models import ALL_LAYERS, EngineOptions
from router.sizing.estimate import CUDA_PROCESS, HOST_PROCESS, footprints, formula
from router.sizing.gguf import Header, LongArray, TensorInfo, Value
from tests.sizing.conftest import MakeHeader

MiB = 2**20
FIELDS: dict[str, Value] = {
    "block_count": 4,
    "embedding_length": 512,
    "feed_forward_length": 2048,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
}
WEIGHTS = {"token_embd.weight": 3000, "output_norm.weight": 40, "output.weight": 5000, "rope_freqs.weight": 8}
WEIGHTS |= {f"blk.{layer}.attn_q.weight": 1000 * (layer + 1) for layer in range(4)}
SMALL = EngineOptions(context=512, slots=2, ubatch=64)
ON_GPU = EngineOptions(context=512, slots=2, ubatch=64, devices=("gpu0",))

Edit = Callable[..., EngineOptions]


def with_options(options: EngineOptions, **changes: object) -> EngineOptions:
    known = {field: getattr(options, field) for field in options.__struct_fields__}
    return EngineOptions(**(known | changes))  # type: ignore[arg-type]


@pytest.fixture
def llama(make_header: MakeHeader) -> Header:
    return make_header("llama", FIELDS, WEIGHTS)


def test_on_the_host_everything_counts_and_the_process_is_free(llama: Header) -> None:
    footprint = formula(llama, with_options(SMALL, gpu_layers=1))
    assert footprint.weights == sum(WEIGHTS.values())
    assert footprint.kv_cache == 4 * 1024 * 2 * 128 * 2
    assert footprint.overhead == 0


def test_on_the_device_the_token_embeddings_stay_behind(llama: Header) -> None:
    held = footprints(llama, ON_GPU)
    assert held["gpu0"].weights == sum(WEIGHTS.values()) - WEIGHTS["token_embd.weight"]
    assert held["gpu0"].overhead == CUDA_PROCESS
    assert held["host"].weights == WEIGHTS["token_embd.weight"]
    assert held["host"].overhead > HOST_PROCESS


def test_a_model_without_a_gpu_is_held_by_the_host_and_its_process_counts(llama: Header) -> None:
    alone = footprints(llama, with_options(SMALL, devices=("host",), gpu_layers=0))
    buffers = formula(llama, SMALL)
    assert list(alone) == ["host"]
    assert alone["host"].total == buffers.total + HOST_PROCESS


def test_a_larger_vocabulary_makes_a_larger_process(make_header: MakeHeader) -> None:
    plain = make_header("llama", FIELDS, WEIGHTS)
    words = Header(
        plain.files, {**plain.metadata, "tokenizer.ggml.tokens": LongArray(262_144)}, plain.tensors, 0
    )
    assert footprints(words, SMALL)["host"].overhead == HOST_PROCESS + 160 * 262_144


def test_sliding_layers_of_a_placed_model_keep_their_window(make_header: MakeHeader) -> None:
    header = make_header("gemma3", FIELDS | {"attention.sliding_window": 128})
    options = with_options(SMALL, context=4096, gpu_layers=0)
    assert footprints(header, options)["host"].kv_cache == formula(header, options, windowed=True).kv_cache


def test_token_embeddings_that_serve_as_output_go_along(make_header: MakeHeader) -> None:
    tied = {name: size for name, size in WEIGHTS.items() if name != "output.weight"}
    assert footprints(make_header("llama", FIELDS, tied), ON_GPU)["gpu0"].weights == sum(tied.values())


@pytest.mark.parametrize(
    ("gpu_layers", "weights", "layers"),
    [
        (1, 5048, 0),
        (2, 5048 + 4000, 1),
        (4, 5048 + 9000, 3),
        (5, 15048, 4),
        (99, 15048, 4),
        (-1, 15048, 4),
    ],
)
def test_the_last_layers_go_to_the_device_first(
    llama: Header, gpu_layers: int, weights: int, layers: int
) -> None:
    held = footprints(llama, with_options(ON_GPU, gpu_layers=gpu_layers))
    assert held["gpu0"].weights == weights
    assert held["gpu0"].kv_cache == layers * 1024 * 2 * 128 * 2
    # The embeddings are the host's; a tied output would be on both.
    assert held["host"].weights == sum(WEIGHTS.values()) - weights
    assert held["host"].kv_cache == (4 - layers) * 1024 * 2 * 128 * 2


def test_a_split_gives_each_device_the_layers_that_llama_cpp_would(llama: Header) -> None:
    options = with_options(SMALL, devices=("gpu0", "gpu1"), split=(0.4, 0.6))
    held = footprints(llama, options)
    assert held["gpu0"].weights == 1000 + 2000
    assert held["gpu1"].weights == 3000 + 4000 + 5048
    even = footprints(llama, with_options(options, split=()))
    assert even["gpu0"].weights == 1000 + 2000 + 3000


def test_logits_of_a_micro_batch_are_counted(make_header: MakeHeader) -> None:
    plain = make_header("llama", FIELDS, WEIGHTS)
    output = TensorInfo("output.weight", (512, 128_000), 1, 512 * 128_000 * 2)
    wide = Header(plain.files, plain.metadata, (output,), plain.file_bytes)
    more = formula(wide, SMALL).compute - formula(plain, SMALL).compute
    assert more == SMALL.ubatch * 128_000 * 4 + SMALL.slots * 128_000 * (4 + 12)


def test_a_model_that_pools_takes_its_whole_context_at_once(make_header: MakeHeader) -> None:
    wide = TensorInfo("token_embd.weight", (512, 1000), 0, 512 * 1000 * 4)
    plain = make_header("qwen3", FIELDS | {"pooling_type": 3})
    header = Header(plain.files, plain.metadata, (wide,), wide.bytes)
    at_once = formula(header, with_options(SMALL, context=4096))
    assert at_once.compute > 4096 * 1000 * 4
    assert at_once == formula(header, with_options(SMALL, context=4096, ubatch=1))


def test_a_window_saves_cache_where_the_engine_uses_it(make_header: MakeHeader) -> None:
    header = make_header("gemma3", FIELDS | {"attention.sliding_window": 128})
    options = with_options(SMALL, context=4096)
    whole, windowed = formula(header, options), formula(header, options, windowed=True)
    assert whole.kv_cache == 4 * 8192 * 512
    assert windowed.kv_cache == 4 * 2 * 256 * 512
    assert whole.compute == windowed.compute


def test_plain_attention_is_counted_where_it_may_happen(make_header: MakeHeader) -> None:
    scores = 8192 * 64 * 8 * 4
    fused = with_options(SMALL, context=8192, flash_attention="on")
    plain = with_options(SMALL, context=8192, flash_attention="off")
    auto = with_options(SMALL, context=8192, flash_attention="auto")
    usual = make_header("llama", FIELDS)
    unusual = make_header("llama", FIELDS | {"attention.key_length": 44})
    assert formula(usual, plain).compute - formula(usual, fused).compute == scores
    assert formula(usual, auto).compute == formula(usual, fused).compute
    assert formula(unusual, auto).compute == formula(unusual, plain).compute


def test_experts_of_a_token_are_counted_as_one_wide_layer(make_header: MakeHeader) -> None:
    sparse = FIELDS | {"expert_used_count": 8, "expert_feed_forward_length": 1024}
    more = (
        formula(make_header("qwen3moe", sparse), SMALL).compute
        - formula(make_header("qwen3moe", FIELDS), SMALL).compute
    )
    assert more == 64 * 4 * 3 * (8 * (1024 + 512) - 2048)


def test_an_architecture_that_nobody_knows_is_sized_as_a_dense_one(make_header: MakeHeader) -> None:
    known, unknown = make_header("llama", FIELDS, WEIGHTS), make_header("invented", FIELDS, WEIGHTS)
    assert formula(unknown, SMALL) == formula(known, SMALL)


def test_a_header_that_says_nothing_still_has_weights(make_header: MakeHeader) -> None:
    header = make_header("llama", {}, {"w": 4000})
    assert formula(header, SMALL).weights == footprints(header, ON_GPU)["gpu0"].weights == 4000
    assert formula(header, SMALL).kv_cache == 0


OPTIONS = st.builds(
    EngineOptions,
    context=st.integers(1, 2**20),
    slots=st.integers(1, 64),
    gpu_layers=st.integers(-1, 6),
    kv_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    flash_attention=st.sampled_from(["auto", "on", "off"]),
    ubatch=st.integers(1, 4096),
    devices=st.sampled_from([("host",), ("gpu0",), ("gpu0", "gpu1")]),
)
ARCHITECTURES = st.sampled_from(["llama", "gemma3", "gpt-oss", "qwen3next", "falcon-h1", "bert", "deepseek2"])
EXTRA: dict[str, Value] = {
    "attention.sliding_window": 512,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
}


def sample(architecture: str) -> Header:
    metadata: dict[str, Value] = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in (FIELDS | EXTRA).items()}
    tensors = tuple(TensorInfo(name, (2, size // 8), 0, size) for name, size in WEIGHTS.items())
    return Header((), metadata, tensors, sum(WEIGHTS.values()))


@given(ARCHITECTURES, OPTIONS, st.integers(0, 5000), st.integers(0, 9))
def test_more_context_or_more_slots_never_take_less(
    architecture: str, options: EngineOptions, tokens: int, slots: int
) -> None:
    header = sample(architecture)
    more = with_options(options, context=options.context + tokens, slots=options.slots + slots)
    for device, before in footprints(header, options).items():
        after = footprints(header, more)[device]
        assert after.weights == before.weights
        assert after.kv_cache >= before.kv_cache
        assert after.compute >= before.compute


@given(ARCHITECTURES, OPTIONS)
def test_every_layer_more_on_the_device_takes_more(architecture: str, options: EngineOptions) -> None:
    header = sample(architecture)
    on_gpu = with_options(options, devices=("gpu0",))
    placed = [footprints(header, with_options(on_gpu, gpu_layers=n)) for n in range(1, 6)]
    totals = [held["gpu0"].total for held in placed]
    assert totals == sorted(totals)
    assert placed[4] == footprints(header, with_options(on_gpu, gpu_layers=ALL_LAYERS))
