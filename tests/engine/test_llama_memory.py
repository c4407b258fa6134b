from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.models import EngineOptions
from router.engine import llama as door

pytestmark = pytest.mark.model


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_the_cache_has_the_bytes_of_its_cells(smollm2: Path, kv_type: str) -> None:
    """SmolLM2-135M: 30 layers, 3 heads of 64 for keys and for values; q8_0 takes 34 bytes for 32 values."""
    footprint = door.dry_run(str(smollm2), EngineOptions(context=512, slots=2, kv_type=kv_type))
    bytes_per_value = {"f16": 2, "q8_0": 34 / 32}[kv_type]
    assert footprint.kv_cache == 512 * 2 * 30 * 3 * 64 * 2 * bytes_per_value


def test_the_weights_do_not_depend_on_the_context(smollm2: Path) -> None:
    small = door.dry_run(str(smollm2), EngineOptions(context=256, slots=1))
    large = door.dry_run(str(smollm2), EngineOptions(context=1024, slots=4))
    assert small.weights == large.weights
    assert 0 < small.weights < smollm2.stat().st_size * 1.01
    assert small.kv_cache * 16 == large.kv_cache
