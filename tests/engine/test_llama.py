"""A real model behind the door; generation itself is tested in tests/models."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.models import EngineOptions
from router.engine import llama
from router.engine.batch import EngineError

pytestmark = pytest.mark.model
SMALL = EngineOptions(context=128, slots=1, ubatch=64)


def test_a_load_reports_rising_progress_up_to_the_whole(smollm2: Path) -> None:
    seen: list[float] = []
    llama.load(str(smollm2), SMALL, seen.append).close()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


def test_a_dry_run_says_what_a_load_takes(smollm2: Path) -> None:
    backend = llama.load(str(smollm2), SMALL, lambda _: None)
    try:
        assert (
            llama.dry_run(str(smollm2), SMALL).total == backend.resident.total > smollm2.stat().st_size // 2
        )
    finally:
        backend.close()


@pytest.mark.parametrize(
    "ask", [llama.dry_run, lambda path, options: llama.load(path, options, lambda _: None)]
)
def test_a_file_that_is_no_model_is_an_engine_error(tmp_path: Path, ask: object) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("this is not a model")
    with pytest.raises(EngineError):
        ask(str(path), SMALL)  # type: ignore[operator]


def test_the_build_names_its_version() -> None:
    assert "0.3.36" in llama.build()
    assert llama.gpu_offload() in (True, False)
