from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from router.domain.models import EngineOptions
from router.engine import llama, llama_log
from router.engine.requantize import TYPES, main


@pytest.fixture(autouse=True)
def _quiet_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(llama_log, "_lines", llama_log._Lines())


def test_a_model_is_written_in_another_type(
    tiny_llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    target = tmp_path / "new" / "q8_0.gguf"
    assert main([str(tiny_llama), str(target), "q8_0"]) == 0
    kinds = {tensor.tensor_type for tensor in gguf.GGUFReader(target).tensors}
    assert gguf.GGMLQuantizationType.Q8_0 in kinds
    assert target.stat().st_size < tiny_llama.stat().st_size
    llama.load(str(target), EngineOptions(context=256, slots=1), lambda _: None).close()
    output = capfd.readouterr()
    assert output.out == ""
    assert "blk.0" in output.err


def test_a_rounded_model_can_be_written_again(tiny_llama: Path, tmp_path: Path):
    small, back = tmp_path / "q8_0.gguf", tmp_path / "f16.gguf"
    assert main([str(tiny_llama), str(small), "q8_0"]) == 0
    assert main([str(small), str(back), "f16"]) == 0


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "b", "f16", "c"]])
def test_wrong_arguments_print_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_a_bad_source_or_type_is_said_and_leaves_nothing(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"nothing")
    target = tmp_path / "target.gguf"
    for source, kind, words in (
        (tmp_path / "missing.gguf", "f16", "is not a file"),
        (broken, "f16", "could not requantise"),
        (tiny_llama, "f17", "is no type"),
    ):
        assert main([str(source), str(target), kind]) == 1
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]


def test_an_older_target_survives_a_failure(tmp_path: Path):
    broken, target = tmp_path / "broken.gguf", tmp_path / "target.gguf"
    broken.write_bytes(b"nothing")
    target.write_bytes(b"older")
    assert main([str(broken), str(target), "f16"]) == 1
    assert target.read_bytes() == b"older"


def test_the_types_are_those_of_the_demo():
    assert {"f16", "q8_0"} <= set(TYPES)
