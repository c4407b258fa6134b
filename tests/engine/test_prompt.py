from __future__ import annotations

from datetime import datetime

import pytest

from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import ChatPrompt, Message, TextPrompt, TokenPrompt
from router.engine.prompt import PromptReader

BOS, EOS = 300, 299


class Vocabulary:
    """Bytes, and `<s>` in front where it is asked for: what llama.cpp does for a model that adds it."""

    chat_template: str | None = "{{ bos_token }}{{ messages[-1]['content'] }}"
    bos = "<s>"
    eos = "</s>"

    def __init__(self, adds_bos: bool = True, adds_eos: bool = False, longest: int | None = None) -> None:
        self.adds_bos = adds_bos
        self.adds_eos = adds_eos
        self.calls: list[str] = []
        self._longest = longest

    def tokenize(self, text: str, special: bool) -> list[int]:
        self.calls.append(text)
        head = [BOS] if special and self.adds_bos else []
        tail = [EOS] if special and self.adds_eos else []
        while text.startswith("<s>"):
            head, text = [*head, BOS], text.removeprefix("<s>")
        return head + list(text.encode()) + tail

    def specials(self) -> tuple[str, ...]:
        return ("<s>", "</s>")

    def longest(self) -> int | None:
        return self._longest


def reader(context: int = 100, **vocabulary: object) -> PromptReader:
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


@pytest.mark.parametrize(
    "text", ["a" * 10_000, " " * 10_000, "a" * 5000 + " " + "b" * 9000, "a b", "\n" * 4095 + "a"]
)
def test_what_begins_and_ends_a_sequence_is_there_once_whatever_the_pieces(text):
    for read in ("read_input", "read"):
        told = PromptReader(Vocabulary(adds_eos=True), 301, 10**6, datetime.now)
        tokens = told.read_input(text) if read == "read_input" else told.read(TextPrompt(text))
        assert tokens.tolist() == [BOS, *text.encode(), EOS]


def test_the_beginning_alone_is_one_token():
    assert reader().read(TextPrompt("<s>")).tolist() == [BOS]
    with pytest.raises(InvalidRequest, match="no tokens"):
        PromptReader(_Mute(adds_bos=False), 301, 100, datetime.now).read(chat("x"), "messages")


class _Mute(Vocabulary):
    chat_template = "{{ '' }}"


def test_a_text_of_more_bytes_than_the_context_can_hold_is_refused_unread():
    told = PromptReader(vocabulary := Vocabulary(longest=50), 301, 1000, datetime.now)
    vocabulary.calls.clear()
    with pytest.raises(ContextOverflow) as error:
        told.read(TextPrompt("é" * 70_000))
    assert (vocabulary.calls, error.value.prompt_tokens) == ([], 2800)


def test_once_a_text_has_taken_long_its_runs_are_read_in_short_pieces():
    clock = iter(range(10**6))
    told = PromptReader(vocabulary := Vocabulary(), 301, 10**6, datetime.now, clock=lambda: next(clock) * 0.3)
    assert len(told.read(TextPrompt("a" * 40_000))) == 40_001
    assert {len(call) for call in vocabulary.calls[-100:]} >= {256}
    assert {4096, 256} <= {len(call) for call in vocabulary.calls}


def test_an_overflow_names_the_field_and_what_would_fit():
    with pytest.raises(
        ContextOverflow, match=r"length is 10 tokens.*your messages resulted in 10.* At most 9 fit"
    ) as error:
        reader(context=10).read(chat("x" * 9), "messages")
    assert (error.value.param, error.value.most) == ("messages", 9)
    with pytest.raises(ContextOverflow, match=r"'prompt\[2\]' resulted in 10 tokens. At most 9"):
        reader(context=10).read(TextPrompt("x" * 9), "prompt[2]")
    with pytest.raises(ContextOverflow, match=r"'input\[1\]' resulted in 11 tokens.$"):
        reader(context=10).read_input("x" * 10, "input[1]")


def test_a_long_text_with_spaces_is_not_cut():
    vocabulary = Vocabulary()
    PromptReader(vocabulary, 301, 10**6, datetime.now).read(TextPrompt("word " * 5000))
    assert vocabulary.calls[-1] == "word " * 5000


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


def test_a_short_text_in_a_small_context_is_refused_unread_too() -> None:
    told = reader(context=100, longest=10)
    before = len(told._vocabulary.calls)  # type: ignore[attr-defined]
    with pytest.raises(ContextOverflow):
        told.read_input("x" * 2000)
    assert len(told._vocabulary.calls) == before  # type: ignore[attr-defined]


def test_the_inputs_of_one_request_have_its_patience_together() -> None:
    now = 0.0

    class Slow(Vocabulary):
        def tokenize(self, text: str, special: bool) -> list[int]:
            nonlocal now
            now += 0.3
            return super().tokenize(text, special)

    vocabulary = Slow()
    told = PromptReader(vocabulary, 301, 10_000, datetime.now, clock=lambda: now)
    vocabulary.calls.clear()
    assert [len(tokens) for tokens in told.read_inputs(["x" * 3000] * 6)] == [3001] * 6
    assert sum(len(text) == 3000 for text in vocabulary.calls) < 6  # the last ones in short runs
    with pytest.raises(InvalidRequest, match=r"input\[1\]"):
        list(told.read_inputs(["a", ""]))
