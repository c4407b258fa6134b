from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.engine.llama_log import llama
from router.engine.llama_vocabulary import LlamaVocabulary
from tests.engine import tiny


@pytest.fixture
def vocabulary(tiny_model) -> LlamaVocabulary:
    return LlamaVocabulary(tiny_model)


def test_it_knows_its_special_tokens(vocabulary: LlamaVocabulary):
    assert (vocabulary.size, vocabulary.bos, vocabulary.eos) == (258, "<begin>", "<end>")
    assert not vocabulary.adds_bos
    assert vocabulary.end_tokens == {tiny.END}
    assert vocabulary.is_end(tiny.END) and not vocabulary.is_end(65)


def test_special_tokens_are_parsed_and_say_nothing(vocabulary: LlamaVocabulary):
    assert vocabulary.tokenize("a<end>b", special=True) == [97, tiny.END, 98]
    assert vocabulary.piece(tiny.END) == b""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(max_size=50))
def test_text_comes_back_from_its_tokens(vocabulary: LlamaVocabulary, text: str):
    tokens = vocabulary.tokenize(text, special=False)
    if "<" not in text:
        assert b"".join(map(vocabulary.piece, tokens)) == text.encode("utf-8", "replace")


def test_a_lone_surrogate_is_replaced(vocabulary: LlamaVocabulary):
    assert vocabulary.tokenize("\ud800", special=False) == [ord("?")]


def test_the_beginning_is_added_where_the_model_wants_it(folder: Path):
    path = tiny.llama(folder / "adds.gguf", adds_bos=True)
    model = llama.llama_model_load_from_file(bytes(path), llama.llama_model_default_params())
    vocabulary = LlamaVocabulary(model)
    assert vocabulary.adds_bos
    assert vocabulary.tokenize("a", special=True) == [tiny.BEGIN, 97]
    assert vocabulary.tokenize("a", special=False) == [97]
    llama.llama_model_free(model)


def test_a_template_longer_than_any_buffer_is_read_whole(folder: Path):
    template = "{# " + "x" * 100_000 + " #}end"
    path = tiny.llama(folder / "long.gguf", template=template)
    model = llama.llama_model_load_from_file(bytes(path), llama.llama_model_default_params())
    assert LlamaVocabulary(model).chat_template == template
    llama.llama_model_free(model)
