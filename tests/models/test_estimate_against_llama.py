"""The formula against what llama.cpp says that it allocates. Each load has a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from router.domain.models import EngineOptions, Footprint
from router.sizing.estimate import formula
from router.sizing.gguf import card, read_header

pytestmark = pytest.mark.model

MiB = 2**20
ROUNDING = 0.01 * MiB
"""The log gives two decimals."""

LOAD = """
import sys
import llama_cpp as L
path, (context, slots, kv, ubatch, flash, full) = sys.argv[1], map(int, sys.argv[2:])
say = L.llama_log_callback(lambda level, text, data: print(text.decode(errors="replace"), end=""))
L.llama_log_set(say, None)
L.llama_backend_init()
model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
assert model, "not loaded"
params = L.llama_context_default_params()
params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = context * slots, slots, ubatch, ubatch
params.type_k = params.type_v = kv
params.n_outputs_max = min(max(slots, 64), ubatch)
params.flash_attn_type, params.kv_unified, params.swa_full = flash, False, bool(full)
assert L.llama_init_from_model(model, params), "no context"
"""
KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
FLASH = {"auto": -1, "off": 0, "on": 1}


@dataclass
class Allocated:
    """Bytes, rounded to a hundredth of a MiB."""

    weights: float
    kv_cache: float
    compute: float


def allocated(path: Path, options: EngineOptions, *, windowed: bool = False) -> Allocated:
    numbers = (options.context, options.slots, KV_TYPES[options.kv_type], options.ubatch)
    arguments = [str(number) for number in (*numbers, FLASH[options.flash_attention], int(not windowed))]
    command = [sys.executable, "-c", LOAD, str(path), *arguments]
    log = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert log.returncode == 0, log.stderr + log.stdout[-2000:]

    def size(what: str) -> float:
        return (
            sum(float(found) for found in re.findall(rf"{what} buffer size = +([\d.]+) MiB", log.stdout))
            * MiB
        )

    return Allocated(size("model"), size("KV"), size("compute") + size("output"))


def options(context: int, slots: int, kv_type: str = "f16", flash: str = "auto") -> EngineOptions:
    return EngineOptions(context=context, slots=slots, kv_type=kv_type, flash_attention=flash)  # type: ignore[arg-type]


CASES = [options(512, 1), options(512, 1, "q8_0"), options(2048, 4), options(2048, 4, "q8_0")]
CASES += [options(2048, 4, flash="off"), options(8192, 1, flash="off"), options(1000, 3, "q4_0")]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda o: f"{o.context}x{o.slots}-{o.kv_type}-{o.flash_attention}"
)
def test_the_formula_meets_llama_cpp_on_a_real_model(smollm2: Path, case: EngineOptions) -> None:
    real, estimated = allocated(smollm2, case), formula(read_header(smollm2), case)
    assert estimated.weights == pytest.approx(real.weights, abs=ROUNDING)
    assert estimated.kv_cache == pytest.approx(real.kv_cache, abs=ROUNDING)
    assert real.compute <= estimated.compute <= 1.5 * real.compute + 48 * MiB


DRY_RUN = """
import sys
import msgspec
from router.domain.models import EngineOptions
from router.engine import llama
options = msgspec.json.decode(sys.argv[2], type=EngineOptions)
print(msgspec.json.encode(llama.dry_run(sys.argv[1], options)).decode())
"""


@pytest.mark.parametrize(
    "case", CASES[2:6], ids=lambda o: f"{o.context}x{o.slots}-{o.kv_type}-{o.flash_attention}"
)
def test_the_formula_is_an_upper_bound_of_what_the_engine_asks_for(
    smollm2: Path, case: EngineOptions
) -> None:
    command = [sys.executable, "-c", DRY_RUN, str(smollm2), msgspec.json.encode(case).decode()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    asked, estimated = (
        msgspec.json.decode(answer, type=dict[str, Footprint])["host"],
        formula(read_header(smollm2), case),
    )
    assert estimated.weights == pytest.approx(asked.weights, abs=MiB)
    assert estimated.kv_cache == asked.kv_cache
    assert asked.compute <= estimated.compute <= 1.5 * asked.compute + 48 * MiB


def test_the_card_of_a_real_model_is_right(smollm2: Path) -> None:
    found = card(read_header(smollm2))
    assert (found.architecture, found.quantization, found.layers) == ("llama", "Q4_1", 30)
    assert (found.parameters, found.context_train, found.pooled) == (134_515_008, 8192, False)


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3 of random weights: five layers of six look back 512 tokens."""
    path = tmp_path_factory.mktemp("sliding") / "gemma3.gguf"
    layers, width, heads, head, feed, words = 7, 128, 2, 64, 256, 1000
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(512)
    writer.add_vocab_size(words)
    writer.add_tokenizer_model("no_vocab")
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (words, width), "output_norm": (width,)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.post_{name}": (width,) for name in ("attention_norm", "ffw_norm")}
        shapes |= {f"blk.{layer}.attn_{name}_norm": (head,) for name in "qk"}
        shapes |= {
            f"blk.{layer}.attn_q": (heads * head, width),
            f"blk.{layer}.attn_output": (width, heads * head),
        }
        shapes |= {f"blk.{layer}.attn_{name}": (head, width) for name in "kv"}
        shapes |= {f"blk.{layer}.ffn_{name}": (feed, width) for name in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (width, feed)}
    random = np.random.default_rng(1)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype("f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("windowed", [True, False], ids=["windowed", "whole"])
@pytest.mark.parametrize(
    "case",
    [options(512, 1), options(8192, 2), options(4096, 3, "q8_0")],
    ids=lambda o: f"{o.context}x{o.slots}",
)
def test_the_formula_meets_llama_cpp_on_sliding_windows(
    sliding: Path, case: EngineOptions, windowed: bool
) -> None:
    real = allocated(sliding, case, windowed=windowed)
    estimated = formula(read_header(sliding), case, windowed=windowed)
    assert estimated.weights == pytest.approx(real.weights, abs=ROUNDING)
    assert estimated.kv_cache == pytest.approx(real.kv_cache, abs=2 * ROUNDING)
    assert real.compute <= estimated.compute
