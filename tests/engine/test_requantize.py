from __future__ import annotations

from pathlib import Path

import pytest

from router.engine.requantize import main

pytestmark = pytest.mark.model


def test_a_file_that_is_no_model_leaves_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "text.gguf"
    source.write_text("this is not a model")
    assert main([str(source), str(tmp_path / "out.gguf"), "q8_0"]) != 0
    assert [path.name for path in tmp_path.iterdir()] == ["text.gguf"]
    assert capfd.readouterr().err


def test_an_unknown_kind_is_refused_with_the_known_ones(
    tmp_path: Path, smollm2: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([str(smollm2), str(tmp_path / "out.gguf"), "q99"])
    except SystemExit as ended:
        code = ended.code
    assert code not in (0, None)
    assert "q8_0" in capfd.readouterr().err.lower()
    assert not list(tmp_path.iterdir())


def test_the_derived_models_are_whole_and_of_their_size(demo_models: dict[str, Path]) -> None:
    sizes = {kind: path.stat().st_size for kind, path in demo_models.items()}
    assert sizes["q4_1"] < sizes["q8_0"] < sizes["f16"]
    assert all(path.read_bytes()[:4] == b"GGUF" for path in demo_models.values())
