from __future__ import annotations

from datetime import datetime

import pytest

from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import ChatPrompt, Message, TextPrompt, TokenPrompt
from router.engine.prompt import PromptReader

BOS = 300


class Vocabulary:
    """Bytes, and `<s>` in front where it is asked for: what llama.cpp does for a model that adds it."""

    chat_template: str | None = "{{ bos_token }}{{ messages[-1]['content'] }}"
    bos = "<s>"
    eos = "</s>"

    def __init__(self, adds_bos: bool = True) -> None:
        self.adds_bos = adds_bos
        self.calls: list[str] = []

    def tokenize(self, text: str, special: bool) -> list[int]:
        self.calls.append(text)
        head = [BOS] if special and self.adds_bos else []
        while text.startswith("<s>"):
            head, text = [*head, BOS], text.removeprefix("<s>")
        return head + list(text.encode())


def reader(context: int = 100, **vocabulary: bool) -> PromptReader:
    return PromptReader(Vocabulary(**vocabulary), 301, context, datetime.now)


def chat(text: str) -> ChatPrompt:
    return ChatPrompt((Message("user", text),))


def test_a_chat_begins_once_whoever_puts_the_beginning_there():
    for adds_bos in (True, False):
        assert reader(adds_bos=adds_bos).read(chat("hi")).tolist() == [BOS, 104, 105]


def test_a_text_that_writes_the_beginning_itself_does_not_get_it_twice():
    assert reader().read(TextPrompt("<s>hi")).tolist() == [BOS, 104, 105]


def test_token_ids_are_taken_as_they_are():
    assert reader().read(TokenPrompt((1, 2, 300))).tolist() == [1, 2, 300]


@pytest.mark.parametrize("token", [-1, 301, 2**40])
def test_a_token_that_the_vocabulary_does_not_have_is_refused(token):
    with pytest.raises(InvalidRequest, match="no token"):
        reader().read(TokenPrompt((1, token)))
    with pytest.raises(InvalidRequest, match="no token"):
        reader().read_input((token,))


@pytest.mark.parametrize("prompt", [ChatPrompt(()), TextPrompt(""), TokenPrompt(())])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(InvalidRequest):
        reader().read(prompt)


def test_a_prompt_that_leaves_no_room_for_an_answer_overflows():
    assert len(reader(context=10).read(TokenPrompt((1,) * 9))) == 9
    for prompt in (TokenPrompt((1,) * 10), TextPrompt("x" * 9), chat("x" * 9)):
        with pytest.raises(ContextOverflow) as error:
            reader(context=10).read(prompt)
        assert (error.value.context, error.value.prompt_tokens) == (10, 10)


def test_an_input_to_embed_may_fill_the_context():
    assert len(reader(context=10).read_input("x" * 9)) == 10
    for text in ("x" * 10, (1,) * 11):
        with pytest.raises(ContextOverflow):
            reader(context=10).read_input(text)


@pytest.mark.parametrize("text", ["", ()])
def test_an_empty_input_is_refused(text):
    with pytest.raises(InvalidRequest, match="empty"):
        reader().read_input(text)


def test_a_very_long_run_reaches_the_tokenizer_in_pieces_and_begins_once():
    vocabulary = Vocabulary()
    tokens = PromptReader(vocabulary, 301, 10**6, datetime.now).read(TextPrompt("a" * 10_000))
    assert len(tokens) == 10_001
    assert tokens.tolist().count(BOS) == 1
    assert max(map(len, vocabulary.calls)) == 4096


def test_a_long_text_with_spaces_is_not_cut():
    vocabulary = Vocabulary()
    PromptReader(vocabulary, 301, 10**6, datetime.now).read(TextPrompt("word " * 5000))
    assert len(vocabulary.calls) == 1


def test_a_hopelessly_long_text_is_not_read_to_its_end():
    vocabulary = Vocabulary()
    text = "word " * 2_000_000
    with pytest.raises(ContextOverflow) as error:
        PromptReader(vocabulary, 301, 1000, datetime.now).read(TextPrompt(text))
    assert sum(map(len, vocabulary.calls)) < 70_000
    assert error.value.prompt_tokens == pytest.approx(len(text), rel=0.01)


def test_a_long_text_that_does_fit_is_read_as_a_whole():
    vocabulary = Vocabulary()
    text = "word " * 20_000
    tokens = PromptReader(vocabulary, 301, 200_000, datetime.now).read(TextPrompt(text))
    assert len(tokens) == len(text) + 1
    assert vocabulary.calls[-1] == text
