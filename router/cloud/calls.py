"""
What goes to an upstream and what comes back, as the rooms above see it.

The one rule: nothing of the client's connection is in here; no header of theirs can travel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from router.domain.generation import Usage

Path = Literal["chat/completions", "completions", "embeddings"]


@dataclass(frozen=True, slots=True)
class CloudCall:
    """
    One request of a client, parsed and strictly checked by our api.

    `body` is sent as it is but for `model` (the upstream's), `stream`, and at priced upstreams the token limit; it is
    serialised anew here. It is never changed in place.
    """

    path: Path
    body: Mapping[str, Any] = field(repr=False)
    stream: bool = False
    prompt_tokens_bound: int | None = None
    """At least the tokens of the prompt. None = counted here, from the bytes of the body: safe and generous."""
    max_tokens: int | None = None
    """What the answer may have, as the client said; None = the upstream's `max_tokens`."""
    caller: str | None = None
    """Name of the client's key, for its budget; None where there are no keys."""
    tenant: str = ""
    """Opaque; told to peers, which see one key for all clients of this gateway."""
    private: bool = False
    """`cloud: never`: no byte of it may leave, whoever asks. Refused here even if every rule above failed."""


@dataclass(slots=True)
class CloudAnswer:
    """
    An answer that has begun: a whole one is complete, a streamed one has its first event. Both are the upstream's bytes.

    What fills in as the answer goes on: `usage`, `finish`, `model`, `cost`.
    """

    status: int
    served_by: str
    """Name of the upstream."""
    reserved: int
    """Micro-dollars that this answer may cost at most; 0 = free."""
    attempts: int = 1
    body: bytes = field(default=b"", repr=False)
    """The whole answer, a JSON object; empty when streamed."""
    events: AsyncIterator[bytes] | None = field(default=None, repr=False)
    """
    Whole SSE events with their blank line, `data: [DONE]` last; upstream's comments are dropped. None = not streamed.

    Ends after [DONE], or raises UpstreamBroken: never a silent end.
    """
    usage: Usage | None = None
    """Once the upstream told."""
    finish: str | None = None
    """The last finish_reason seen."""
    model: str | None = None
    """What the upstream calls the model that answers."""
    cost: int | None = None
    """Micro-dollars, once settled: at once for whole answers, else at the end of the events or of the context."""
