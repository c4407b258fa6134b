from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny_llama(folder: Path) -> Path:
    return tiny.llama(folder / "llama.gguf", template="{{ messages[-1]['content'] }}")


@pytest.fixture(scope="session")
def tiny_bert(folder: Path) -> Path:
    return tiny.bert(folder / "bert.gguf")


@pytest.fixture
def tiny_model(tiny_llama: Path) -> Iterator[object]:
    """A bare llama_model, for what needs a vocabulary."""
    from router.engine.llama_log import llama

    model = llama.llama_model_load_from_file(bytes(tiny_llama), llama.llama_model_default_params())
    yield model
    llama.llama_model_free(model)
