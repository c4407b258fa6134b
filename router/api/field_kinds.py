"""
What can be said of one field of a request: honoured, alias, harmless or refused, and by which values.

The one rule: data only; `field_table` says it of each field, `field_check` compares requests with it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Endpoint = Literal["chat", "completions", "embeddings"]
GENERATION: tuple[Endpoint, ...] = ("chat", "completions")
CHAT: tuple[Endpoint, ...] = ("chat",)
COMPLETIONS: tuple[Endpoint, ...] = ("completions",)
EMBEDDINGS: tuple[Endpoint, ...] = ("embeddings",)
EVERYWHERE: tuple[Endpoint, ...] = ("chat", "completions", "embeddings")


class Effect(enum.Enum):
    HONOURED = "honoured"
    ALIAS = "alias"
    HARMLESS = "harmless"
    """It changes no answer of a local model, so it is ignored."""
    REFUSED = "refused"
    """It would change the answer, and no local model can do it: a 400 that names it, unless it asks for nothing."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    effect: Effect
    schemas: str
    """Letters of those that have it: O (OpenAI), L (llama-server), V (vLLM); empty: others that clients come from."""
    example: object
    """A value: of a refused field one that is refused, of any other one that is accepted."""
    note: str = ""
    """What it does, what it is an alias of, why it is harmless."""
    nothing: tuple[object, ...] = ()
    """Values of a refused field that ask for nothing. So do null and what is empty, everywhere."""
    off_by: str | None = None
    """A field whose value "none" switches this one off."""
    endpoints: tuple[Endpoint, ...] = GENERATION


def honoured(
    name: str, schemas: str, example: object, note: str = "", on: tuple[Endpoint, ...] = GENERATION
) -> Field:
    return Field(name, Effect.HONOURED, schemas, example, note, endpoints=on)


def alias(name: str, schemas: str, example: object, of: str) -> Field:
    return Field(name, Effect.ALIAS, schemas, example, of)


def harmless(
    name: str, schemas: str, example: object, note: str, on: tuple[Endpoint, ...] = GENERATION
) -> Field:
    return Field(name, Effect.HARMLESS, schemas, example, note, endpoints=on)


def refused(
    name: str,
    schemas: str,
    example: object,
    *nothing: object,
    note: str = "",
    off_by: str | None = None,
    on: tuple[Endpoint, ...] = GENERATION,
) -> Field:
    return Field(name, Effect.REFUSED, schemas, example, note, nothing, off_by, on)
