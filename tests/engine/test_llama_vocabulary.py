from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.engine.llama_log import llama
from router.engine.llama_vocabulary import LlamaVocabulary

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def vocabulary(smollm2: Path) -> Iterator[LlamaVocabulary]:
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(smollm2).encode(), params)
    yield LlamaVocabulary(model)
    llama.llama_model_free(model)


@pytest.mark.parametrize("text", ["Hello, world", "naïve façade", "日本語 🙂", "  two  spaces\n\ttab"])
def test_the_pieces_of_a_text_make_the_text(vocabulary: LlamaVocabulary, text: str) -> None:
    tokens = vocabulary.tokenize(text, False)
    assert b"".join(vocabulary.piece(token) for token in tokens).decode() == text


def test_special_tokens_end_an_answer_and_are_not_shown(vocabulary: LlamaVocabulary) -> None:
    (end,) = vocabulary.tokenize("<|im_end|>", False)
    assert vocabulary.is_end(end)
    assert vocabulary.piece(end) == b""
    assert vocabulary.eos == "<|im_end|>"


def test_what_the_file_says_is_there(vocabulary: LlamaVocabulary) -> None:
    assert vocabulary.size == 49152
    assert vocabulary.chat_template
    assert "<|im_start|>" in vocabulary.chat_template


def test_an_empty_text_has_no_words(vocabulary: LlamaVocabulary) -> None:
    assert b"".join(vocabulary.piece(token) for token in vocabulary.tokenize("", False)) == b""
