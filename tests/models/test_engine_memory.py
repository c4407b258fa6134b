"""What a dry run says is what a load takes, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.models import EngineOptions
from router.engine import llama
from router.engine.batch import EngineError

pytestmark = pytest.mark.model


@pytest.mark.parametrize("quantization", ["q4_1", "q8_0"])
@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(context=512, slots=1, ubatch=512),
        EngineOptions(context=2048, slots=4, ubatch=128),
        EngineOptions(context=1000, slots=3, ubatch=64, kv_type="q8_0"),
        EngineOptions(context=512, slots=2, flash_attention="off"),
    ],
    ids=["small", "large", "odd", "no flash attention"],
)
def test_a_dry_run_tells_the_very_bytes_of_a_load(demo_models, quantization: str, options: EngineOptions):
    path = str(demo_models[quantization])
    foretold = llama.dry_run(path, options)
    backend = llama.load(path, options, lambda _: None)
    backend.close()
    planned, held = foretold["host"], backend.resident["host"]
    assert (planned.weights, planned.kv_cache, planned.compute) == (held.weights, held.kv_cache, held.compute)
    assert planned.weights > 0.9 * Path(path).stat().st_size
    assert planned.compute > 0


def test_the_cache_of_a_plain_context_is_what_the_formula_says(smollm2: Path):
    options = EngineOptions(context=1024, slots=4)
    layers, heads, width, bytes_each = 30, 3, 64, 2
    per_token = layers * heads * (width + width) * bytes_each
    assert llama.dry_run(str(smollm2), options)["host"].kv_cache == 1024 * 4 * per_token


def test_a_dry_run_of_no_model_is_an_error(tmp_path: Path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    for path in (tmp_path / "bad.gguf", tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(EngineError):
            llama.dry_run(str(path), EngineOptions())
