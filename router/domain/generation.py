"""One generation or embedding: what is asked, and what comes back piece by piece."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat. `role` is system, user, assistant or tool; `content` is plain text."""

    role: str
    content: str
    name: str | None = None


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """Turns that the worker renders with the model's own chat template."""

    messages: tuple[Message, ...]


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is chosen. Defaults are llama.cpp's own; neutral values switch a step off."""

    temperature: float = 0.8
    """0 = greedy."""
    top_k: int = 40
    """0 = all."""
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token id and bias added to its logit."""
    max_tokens: int | None = None
    """None = up to what the context leaves; always clamped to that."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


class GenerationRequest(msgspec.Struct, frozen=True):
    id: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    field: str = "messages"
    """Where the prompt stands in the client's JSON: messages, prompt, or one of several such as `prompt[2]`."""
    cache_prompt: bool = True
    """False: the slot begins empty, whatever it holds, so that a seed gives the same text each time."""
    tenant: str = ""
    """Whose request it is, an opaque id. What a slot holds of another tenant is never reused."""


OnPrompt = Callable[[float], None]
"""Hears how much of a request's prompt has been read, 0 to 1."""


def ignore_prompt(read: float) -> None:
    """For whoever does not want to hear."""


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"


class Usage(msgspec.Struct, frozen=True):
    """Tokens. `cached_tokens` of the prompt were found in the slot and not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Delta(msgspec.Struct, frozen=True):
    """
    A piece of an answer: whole characters only, never a cut UTF-8 sequence.

    The last delta of a generation, and only that, has `finish_reason` and `usage`; its text may be empty.
    """

    text: str = ""
    tokens: int = 0
    """How many tokens were sampled for this piece."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True):
    id: str
    inputs: tuple[str | tuple[int, ...], ...]


class Embeddings(msgspec.Struct, frozen=True):
    """One unit-length vector per input, each `dimensions` little-endian float32 values."""

    vectors: tuple[bytes, ...]
    dimensions: int
    prompt_tokens: int
