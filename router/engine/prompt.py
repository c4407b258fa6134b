"""
A request's prompt -> token ids: chat template, tokenising, the checks that need the vocabulary.

The one rule: it runs in the intake thread, so it reads the vocabulary (thread-safe) and nothing else.

Special tokens in a rendered chat are parsed, those that a user typed into a message included: a message can
open a turn of its own. llama.cpp does so too; whoever needs a wall there has to strip them before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Protocol, assert_never

import numpy as np

from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from router.engine.batch import Tokens
from router.engine.pieces import LONG_RUN, SHORT_RUN, Cutter
from router.engine.template import ChatTemplate

_DOUBTFUL = 16
"""Characters for each token that fits: so long a text hardly ever does."""
PATIENCE = 1.0
"""Seconds of processor time for one text; what is left of it then is read in short runs."""
_PROBE_CHARACTERS = 64 * 1024


class Vocabulary(Protocol):
    """What prompts need of a loaded model. Safe to use from any thread."""

    chat_template: str | None
    bos: str
    """The text of the token that begins a sequence, "" where the model has none."""
    eos: str
    adds_bos: bool
    """The tokenizer puts the beginning token there by itself when `special` is set."""

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Special tokens in the text are parsed; `special` adds those that begin and end a sequence."""
        ...

    def specials(self) -> Collection[str]:
        """The texts of all tokens that are parsed whole."""
        ...

    def longest(self) -> int | None:
        """Bytes of text that one token stands for at most; None where there is no such bound."""
        ...


class PromptReader:
    """`context` and `vocabulary_size` are tokens; `now` is what a template's date functions see."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        vocabulary_size: int,
        context: int,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._vocabulary = vocabulary
        self._size = vocabulary_size
        self._context = context
        self._clock = clock
        self._template = ChatTemplate(vocabulary.chat_template, vocabulary.bos, vocabulary.eos, now)
        self._cutter = Cutter(vocabulary.specials)
        self._begin, self._end = _affixes(vocabulary)

    def read(self, prompt: Prompt, field: str = "prompt") -> Tokens:
        """
        At least one token and fewer than the context. Raises InvalidRequest, ContextOverflow.

        `field` is where the prompt stands in the client's JSON: errors name it.
        """
        match prompt:
            case ChatPrompt(messages):
                if not messages:
                    raise InvalidRequest("messages must hold at least one message.", param="messages")
                tokens = self._tokenize(self._template.render(messages), field, self._context - 1)
            case TextPrompt(text):
                if not text:
                    raise InvalidRequest(f"{field} must not be empty.", param=field)
                tokens = self._tokenize(text, field, self._context - 1)
            case TokenPrompt(ids):
                tokens = self._checked(ids, field, self._context - 1)
            case _:
                assert_never(prompt)
        return self._fitting(tokens, field, self._context - 1)

    def read_inputs(self, inputs: Sequence[str | tuple[int, ...]]) -> Iterator[Tokens]:
        """Those of one request to embed, which has PATIENCE for all of them together. Raises like `read`."""
        limit = self._clock() + PATIENCE
        for number, text in enumerate(inputs):
            yield self.read_input(text, f"input[{number}]" if len(inputs) > 1 else "input", limit)

    def read_input(
        self, text: str | tuple[int, ...], field: str = "input", limit: float | None = None
    ) -> Tokens:
        """
        One input to embed: at least one token and at most the context. Raises like `read`.

        `limit`: the reading of the clock from which on runs are cut short; None = PATIENCE from now.
        """
        if not text:
            raise InvalidRequest(f"{field} must not be empty.", param=field)
        if isinstance(text, str):
            tokens = self._tokenize(text, field, self._context, limit)
        else:
            tokens = self._checked(text, field, self._context)
        return self._fitting(tokens, field, self._context)

    def _fitting(self, tokens: Tokens, field: str, most: int) -> Tokens:
        if not len(tokens):
            raise InvalidRequest(f"{field} has no tokens.", param=field)
        if len(tokens) > most:
            raise ContextOverflow(self._context, len(tokens), field, most)
        return tokens

    def _checked(self, ids: tuple[int, ...], field: str, most: int) -> Tokens:
        if len(ids) > most:
            raise ContextOverflow(self._context, len(ids), field, most)
        for token in ids:
            if not 0 <= token < self._size:
                raise InvalidRequest(f"{token} is no token: the vocabulary has {self._size}.", param=field)
        return np.array(ids, np.int32)

    def _tokenize(self, text: str, field: str, most: int, limit: float | None = None) -> Tokens:
        if self._vocabulary.adds_bos and self._vocabulary.bos:
            text = text.removeprefix(self._vocabulary.bos)  # The template wrote it, the tokenizer adds it.
        limit = self._clock() + PATIENCE if limit is None else limit
        # The vocabulary is looked through once for its longest token: not for a text that may well fit.
        longest = self._vocabulary.longest() if len(text) > _DOUBTFUL * most else None
        if longest and (least := len(text.encode("utf-8", "replace")) // longest) > most:
            raise ContextOverflow(self._context, least, field, most)
        if len(text) > max(_PROBE_CHARACTERS, self._context):
            self._refuse_hopeless(text, field, most, limit)
        return np.array(self._begin + self._tokens_of(text, limit) + self._end, np.int32)

    def _refuse_hopeless(self, text: str, field: str, most: int, limit: float) -> None:
        """
        Stop reading a long text once it is certain that it does not fit: a body may be megabytes.

        The number told is the least that it can be, or what the rest would be at the same rate.
        """
        tokens = 0
        for start in range(0, len(text), _PROBE_CHARACTERS):
            tokens += len(self._tokens_of(text[start : start + _PROBE_CHARACTERS], limit))
            done = min(len(text), start + _PROBE_CHARACTERS)
            # A cut may split a token in two, so this count may be a little too high.
            if tokens > 1.1 * self._context + 64:
                raise ContextOverflow(self._context, round(tokens * len(text) / done), field, most)

    def _tokens_of(self, text: str, limit: float) -> list[int]:
        """Without what begins and ends a sequence; runs are short once the clock is at `limit`."""
        tokens: list[int] = []
        for piece in self._cutter.pieces(text, LONG_RUN):
            short = self._cutter.pieces(piece, SHORT_RUN) if self._clock() > limit else (piece,)
            for part in short:
                tokens += self._vocabulary.tokenize(part, False)
        return tokens


def _affixes(vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a sequence by itself, found by asking it."""
    bare, whole = vocabulary.tokenize("a", False), vocabulary.tokenize("a", True)
    for start in range(len(whole) - len(bare) + 1):
        end = start + len(bare)
        if whole[start:end] == bare:
            return whole[:start], whole[end:]
    return [], []
