"""Fixtures that every room may use. Small on purpose: a room's own fixtures live in its own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import demo
from router.settings import cache_home


@pytest.fixture(scope="session")
def demo_models() -> dict[str, Path]:
    """Real models by quantization: q4_1, q8_0, f16. Fetched once into the user's cache; an error, never a skip."""
    return demo.fetch(cache_home())


@pytest.fixture(scope="session")
def smollm2(demo_models: dict[str, Path]) -> Path:
    """SmolLM2-135M-Instruct Q4_1, 98 MB: the smallest real chat model at hand."""
    return demo_models[demo.SOURCE]
