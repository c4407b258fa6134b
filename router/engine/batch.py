"""
What one step asks of a backend, what a loaded model is, and how both can fail.

The one rule: plain values that both sides of the `Backend` protocol may import; nothing here acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
"""Token ids, one-dimensional."""
Matrix = npt.NDArray[np.float32]
"""Embeddings, one row each."""


class EngineError(Exception):
    """The engine cannot go on: a model that does not load, a context that is lost. A complete sentence."""


class OutOfMemory(EngineError):
    """A load or a step needed more memory than there is."""


class ModelRefused(EngineError):
    """The engine does not run this file with these options, however often and wherever it is asked."""


class DecodeFailed(Exception):
    """This batch could not be decoded, and the KV cache is as it was before: a smaller batch may pass."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the loaded model turned out to be. `context` is the tokens of one slot."""

    context: int
    slots: int
    vocabulary: int
    embedding_dimensions: int
    has_chat_template: bool
    can_generate: bool


class Sampler(Protocol):
    """The state with which one sequence chooses its tokens. The backend that made it knows what it is."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's share of a batch: `tokens` go to the positions from `start` on in `slot`."""

    slot: int
    start: int
    tokens: Tokens
    sampler: Sampler | None = None
    """Chooses the token that follows the last of these; None where none is wanted (a piece of a prompt)."""
