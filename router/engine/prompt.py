"""
A request's prompt -> token ids: chat template, tokenising, the checks that need the vocabulary.

The one rule: it runs in the intake thread, so it reads the vocabulary (thread-safe) and nothing else.

Special tokens in a rendered chat are parsed, those that a user typed into a message included: a message can
open a turn of its own. llama.cpp does so too; whoever needs a wall there has to strip them before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Protocol, assert_never

import numpy as np

from router.domain.errors import ContextOverflow, InvalidRequest
from router.domain.generation import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from router.engine.batch import Tokens
from router.engine.template import ChatTemplate

# Some tokenizers match with a recursive std::regex: 32 kB of one letter overflow the stack, and an SPM
# vocabulary needs 45 s for 800 kB of newlines. Runs as long as this are cut, at one odd token each.
_LONG_RUN = re.compile(r"\S{4096}|\s{4096}")
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
        """Special tokens in the text are parsed; `special` adds those that begin (and end) a sequence."""
        ...


class PromptReader:
    """`context` and `vocabulary_size` are tokens; `now` is what a template's date functions see."""

    def __init__(
        self, vocabulary: Vocabulary, vocabulary_size: int, context: int, now: Callable[[], datetime]
    ) -> None:
        self._vocabulary = vocabulary
        self._size = vocabulary_size
        self._context = context
        self._template = ChatTemplate(vocabulary.chat_template, vocabulary.bos, vocabulary.eos, now)

    def read(self, prompt: Prompt) -> Tokens:
        """At least one token and fewer than the context. Raises InvalidRequest, ContextOverflow."""
        match prompt:
            case ChatPrompt(messages):
                if not messages:
                    raise InvalidRequest("messages must hold at least one message.", param="messages")
                tokens = self._tokenize(self._template.render(messages))
            case TextPrompt(text):
                if not text:
                    raise InvalidRequest("prompt must not be empty.", param="prompt")
                tokens = self._tokenize(text)
            case TokenPrompt(ids):
                tokens = self._checked(ids, "prompt")
            case _:
                assert_never(prompt)
        if not len(tokens):
            raise InvalidRequest("The prompt has no tokens.", param="prompt")
        if len(tokens) >= self._context:
            raise ContextOverflow(self._context, len(tokens))
        return tokens

    def read_input(self, text: str | tuple[int, ...]) -> Tokens:
        """One input to embed: at least one token and at most the context."""
        if not text:
            raise InvalidRequest("input must not be empty.", param="input")
        tokens = self._tokenize(text) if isinstance(text, str) else self._checked(text, "input")
        if not len(tokens):
            raise InvalidRequest("input has no tokens.", param="input")
        if len(tokens) > self._context:
            raise ContextOverflow(self._context, len(tokens))
        return tokens

    def _checked(self, ids: tuple[int, ...], param: str) -> Tokens:
        if len(ids) > self._context:
            raise ContextOverflow(self._context, len(ids))
        for token in ids:
            if not 0 <= token < self._size:
                raise InvalidRequest(f"{token} is no token: the vocabulary has {self._size}.", param=param)
        return np.array(ids, np.int32)

    def _tokenize(self, text: str) -> Tokens:
        if self._vocabulary.adds_bos and self._vocabulary.bos:
            text = text.removeprefix(self._vocabulary.bos)  # The template wrote it, the tokenizer adds it.
        if len(text) > max(_PROBE_CHARACTERS, self._context):
            self._refuse_hopeless(text)
        return np.array(self._tokens_of(text, special=True), np.int32)

    def _refuse_hopeless(self, text: str) -> None:
        """
        Stop reading a long text once it is certain that it does not fit: a body may be megabytes.

        The number told is then what the rest would be at the same rate.
        """
        tokens = 0
        for start in range(0, len(text), _PROBE_CHARACTERS):
            tokens += len(self._tokens_of(text[start : start + _PROBE_CHARACTERS], special=False))
            done = min(len(text), start + _PROBE_CHARACTERS)
            # A cut may split a token in two, so this count may be a little too high.
            if tokens > 1.1 * self._context + 64:
                raise ContextOverflow(self._context, round(tokens * len(text) / done))

    def _tokens_of(self, text: str, special: bool) -> list[int]:
        cuts = [0, *(match.end() for match in _LONG_RUN.finditer(text)), len(text)]
        tokens: list[int] = []
        for start, end in pairwise(cuts):
            if start < end:
                tokens += self._vocabulary.tokenize(text[start:end], special and start == 0)
        return tokens
