"""
A loaded model's vocabulary: text <-> tokens.

The one rule: reads only, which llama.cpp allows from any thread.
"""

from __future__ import annotations

from typing import Any

from router.domain.errors import InvalidRequest
from router.engine.llama_log import llama

_ctypes = llama.ctypes
_LOSSLESS = (llama.LLAMA_VOCAB_TYPE_SPM, llama.LLAMA_VOCAB_TYPE_BPE, llama.LLAMA_VOCAB_TYPE_RWKV)
"""Kinds of tokenizer whose tokens, joined, are the text."""


class LlamaVocabulary:
    """Implements `router.engine.prompt.Vocabulary`, and pieces and end tokens for the engine."""

    def __init__(self, model: Any) -> None:
        self._vocab = llama.llama_model_get_vocab(model)
        self.size: int = llama.llama_vocab_n_tokens(self._vocab)
        template = llama.llama_model_chat_template(model, None)
        self.chat_template: str | None = None if template is None else template.decode("utf-8", "replace")
        self.bos = self._text(llama.llama_vocab_bos(self._vocab))
        self.eos = self._text(llama.llama_vocab_eos(self._vocab))
        self.adds_bos: bool = llama.llama_vocab_get_add_bos(self._vocab)
        self._longest: int | None = None
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (llama.llama_token * room)()
            count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, special, True)
            if count >= 0:
                return tokens[:count]  # type: ignore[no-any-return]
            if -count <= room:
                raise InvalidRequest("The text could not be tokenised.", param="prompt")
            room = -count

    def specials(self) -> frozenset[str]:
        """The texts of tokens that are parsed whole; a look at every token: 0.1 s for 262,144."""
        marks = (
            llama.LLAMA_TOKEN_ATTR_CONTROL
            | llama.LLAMA_TOKEN_ATTR_USER_DEFINED
            | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        )
        attribute, vocab = llama.llama_vocab_get_attr, self._vocab
        found = (token for token in range(self.size) if attribute(vocab, token) & marks)
        return frozenset(self._raw(token).decode("utf-8", "replace") for token in found)

    def longest(self) -> int | None:
        """Bytes of the longest token. None where the tokenizer drops blanks or makes one token of any word."""
        if llama.llama_vocab_type(self._vocab) not in _LOSSLESS:
            return None
        if self._longest is None:
            self._longest = max(len(self._raw(token)) for token in range(self.size))
        return self._longest

    def _raw(self, token: int) -> bytes:
        """As the file has it: blanks and bytes may be written with letters of two or three bytes."""
        return llama.llama_vocab_get_text(self._vocab, token) or b""

    def piece(self, token: int) -> bytes:
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._render(token, special=False)
        return known

    def is_end(self, token: int) -> bool:
        return token in self.end_tokens

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer; found at the first use."""
        if not hasattr(self, "_end_tokens"):
            is_eog, vocab = llama.llama_vocab_is_eog, self._vocab
            self._end_tokens = frozenset(token for token in range(self.size) if is_eog(vocab, token))
        return self._end_tokens

    def _render(self, token: int, special: bool) -> bytes:
        room = 64
        while True:
            buffer = _ctypes.create_string_buffer(room)
            length = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]  # type: ignore[no-any-return]
            room = -length

    def _text(self, token: int) -> str:
        return "" if token < 0 else self._render(token, special=True).decode("utf-8", "replace")
